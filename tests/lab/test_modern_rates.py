"""studies/modern_rates: each curve takes the rate that validation data choose, and only once."""

from __future__ import annotations

import pytest

from weightcast_lab.studies import modern_rates
from weightcast_lab.sweeps.rows import make_row, read_rows


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for: the best rate is 0.004 of dense networks, 0.008 of others."""
    asked = []

    def run(config, place):
        rate, curve = config.training.learning_rate, config.labels["curve"]
        asked.append((curve, rate, config.seed))
        loss = 2 + abs(rate - (0.004 if curve == "dense" else 0.008))
        return make_row(
            experiment=config.experiment,
            variant=config.variant,
            dataset=place.data[config.data],
            seed=config.seed,
            config=config.to_dict(),
            counts={},
            metrics={"validation_loss": loss, "test_loss": loss, "test_error": 50.0},
        )

    monkeypatch.setattr(modern_rates, "run", run)
    return asked


def test_rates_are_chosen_by_validation_and_runs_are_kept(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        "sys.argv",
        f"rates gpt --data text=here --curves dense random --seeds 2 --rows {tmp_path}/rows "
        f"--choices {tmp_path}/choices --rates 0.002 0.004 0.008".split(),
    )
    modern_rates.main()
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in out if not line.startswith("random, 0.25: the best")] == [
        ["dense", "100", "%", "rate", "0.004"],
        ["random", "25", "%", "rate", "0.008"],
    ]
    assert "random, 0.25: the best rate is the end of --rates: 0.008" in out
    assert len(runs) == 2 * (3 + 2)
    assert all("test_loss" not in row["metrics"] for row in read_rows(tmp_path / "choices"))
    results = read_rows(tmp_path / "rows")
    assert [row["config"]["training"]["learning_rate"] for row in results] == [0.004] * 2 + [
        0.008
    ] * 2
    assert {row["experiment"] for row in results} == {"modern-gpt-own-rates"}
    runs.clear()
    modern_rates.main()  # again: nothing is missing
    assert runs == []
    assert read_rows(tmp_path / "rows") == results
