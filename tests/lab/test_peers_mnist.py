"""studies/peers_mnist: rates are chosen by validation images, and finished runs are kept."""

import pytest

from weightcast_lab.studies import peers_mnist
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import FitResult, Score

BEST = {"dense": 0.01, "predicted": 0.002, "narrow": 0.05}


@pytest.fixture
def trained(monkeypatch):
    """Runs that were carried out, by (learned weights, rate, seed, validation images or not)."""
    runs = []

    def fit(model, images, settings, *, seed, progress):
        learned = sum(p.numel() for p in model.parameters())
        network = {648_010: "dense", 38_010: "predicted"}.get(learned, "narrow")
        runs.append((network, settings.learning_rate, seed, images.validation is not None))
        if settings.learning_rate > 0.1:
            raise ValueError("the loss of epoch 1 is nan")
        distance = abs(settings.learning_rate - BEST[network])
        validation = None if images.validation is None else Score(1 + distance, 0.5)
        # The test error speaks for another rate: it must not choose.
        return FitResult(Score(9 - distance + seed, 0.5), validation, 0.5, 1.0, settings.epochs, 10)

    monkeypatch.setattr(peers_mnist, "fit", fit)
    return runs


@pytest.fixture
def command(tmp_path):
    files = ["--rows", str(tmp_path / "rows.jsonl"), "--choices", str(tmp_path / "choices.jsonl")]
    words = "--data digits --seeds 2 --fractions 0.05 --validation 100 --rates 0.002 0.01 0.05 0.5"
    return [*words.split(), *files, "--networks", "dense", "predicted", "narrow"]


def test_the_rate_with_the_fewest_validation_errors_is_trained_on_all_images(
    trained, command, tmp_path, capsys
):
    peers_mnist.main(command)
    results = [run for run in trained if not run[3]]
    assert results == [(name, BEST[name], seed, False) for name in BEST for seed in (0, 1)]
    choices, rows = read_rows(tmp_path / "choices.jsonl"), read_rows(tmp_path / "rows.jsonl")
    assert len(choices) == 3 * 4
    assert len(rows) == 3 * 2
    assert not any("test_error" in row["metrics"] for row in choices)
    assert {row["config"]["n_validation"] for row in rows} == {0}
    learned = {row["variant"]: row["counts"]["learned"] for row in rows}
    assert learned["narrow, 5 %"] == pytest.approx(learned["predicted, 5 %"], rel=0.1)
    shown = capsys.readouterr()
    assert "9.50 ± 0.71" in shown.out
    assert "the loss of epoch 1 is nan" in shown.err


def test_a_second_call_trains_only_what_is_missing(trained, command, tmp_path, capsys):
    peers_mnist.main(command)
    table = capsys.readouterr().out
    trained.clear()
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:-1]))
    peers_mnist.main(command)
    assert trained == [("narrow", 0.05, 1, False)]
    assert capsys.readouterr().out == table


def test_a_rate_at_the_end_of_the_list_is_said(trained, command, capsys):
    peers_mnist.main([*command[:-3], "narrow", "--rates", "0.002", "0.05"])
    assert "the best rate is 0.05, the end of --rates" in capsys.readouterr().err


def test_a_share_without_a_predicted_network_is_refused(trained, command):
    options = [*command[:-3], "predicted", "--fractions", "0.3"]
    with pytest.raises(ValueError, match=r"take 0\.05 or 0\.02"):
        peers_mnist.main(options)
