"""weightcast reproduce: real trials in processes of their own, a table, a page; again, nothing."""

import pytest
import torch

from tests.lab.speech_corpora import write_timit
from weightcast.cli.main import main
from weightcast_lab.cli.reproduction import find_sources
from weightcast_lab.studies import sources
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import Images, load_images, save_images


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fig4, with a comma")
    command = ["reproduce", "fig4", "--preset", "smoke", "--seeds", "1", "--output", str(folder)]
    assert main(command) == 0
    return folder, command


def attempts(folder):
    return {p.parent.name: p.read_text() for p in folder.glob("trials/*/attempts.log")}


def test_every_trial_has_a_row_and_the_page_is_there(finished):
    folder, _ = finished
    rows = read_rows(folder / "trials" / "rows.jsonl")
    assert {row["labels"]["curve"] for row in rows} == {
        "dense",
        "narrow",
        "LowRank",
        "RandFixU-RandFixU",
        "SE-Emp",
    }
    errors = {row["labels"]["curve"]: row["metrics"]["test_error"] for row in rows}
    assert max(errors.values()) < 40, "an epoch on 4,000 digits is far better than chance"
    assert errors["SE-Emp"] < errors["narrow"]
    for row in rows:
        trial = Trial.from_json((folder / "trials" / row["trial"] / "trial.json").read_text())
        assert trial.key == row["trial"]
        assert row["config"]["plan"] == trial.config.plan
    assert "SE-Emp" in (folder / "index.html").read_text(encoding="utf-8")
    assert (folder / "fig4.svg").exists()


def test_a_second_run_trains_nothing_and_draws_the_same(finished, capsys):
    folder, command = finished
    before, page = attempts(folder), (folder / "index.html").read_bytes()
    assert len(before) == 5
    assert main(command) == 0
    assert attempts(folder) == before
    assert (folder / "index.html").read_bytes() == page
    assert "RandFixU-RandFixU" in capsys.readouterr().out


def test_report_draws_the_same_rows(finished, tmp_path, capsys):
    folder, _ = finished
    rows = folder / "trials" / "rows.jsonl"
    assert main(["report", str(rows), "--output", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "fig4.png").exists()
    assert "SE-Emp" in capsys.readouterr().out


def test_a_language_model_is_drawn_by_its_loss(tmp_path, capsys):
    command = ["reproduce", "gpt", "--preset", "smoke", "--seeds", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    rows = read_rows(tmp_path / "trials" / "rows.jsonl")
    assert {row["labels"]["curve"] for row in rows} == {
        "dense",
        "informed",
        "random",
        "random half",
        "narrow",
    }
    for row in rows:
        assert 2 < row["metrics"]["test_loss"] < 4.5  # log 92 is 4.52
        assert row["dataset"] == "scikit-learn's descriptions"
    printed = capsys.readouterr()
    assert printed.out.index("test loss, nats") < printed.out.index("test error, %")
    assert "loss" in printed.err
    assert (tmp_path / "modern-gpt.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt"], "gpt has no data of its own: name a text with --data NAME=FILE"),
        (["fig9"], "there is no figure 'fig9'; did you mean"),
        (["fig4", "--preset", "smoky"], "there is no preset 'smoky'; did you mean 'smoke'"),
        (["fig4", "--executor", "raye"], "executor is 'raye': take 'local' or 'ray'"),
        (["fig4", "--seeds", "0"], "seeds is 0"),
        (["fig4", "--accelerator", "tpu"], "accelerator is 'tpu'"),
        (["fig4", "--executor", "ray", "--jobs", "3"], "jobs is 3, but Ray decides"),
        (["fig4", "--data", "m=gone.safetensors"], "cannot read the prepared images in gone."),
        (["speech"], "speech has no data of its own: name the folder of your recordings"),
        (["fig4", "--data", "a=digits,b=digits"], "names 2 data sets, and fig4 takes 1"),
        (["fig4", "--data", "nowhere/at/all"], "there is no data folder nowhere/at/all"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, arguments, message):
    assert main(["reproduce", *arguments, "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert not (tmp_path / "out" / "trials").exists()


def test_an_incomplete_timit_is_refused_before_any_trial(tmp_path, capsys):
    folder = write_timit(tmp_path / "timit", n_train=1, n_test=1)
    next(folder.glob("TRAIN/*/*/SX3.PHN")).unlink()
    arguments = ["speech", "--preset", "smoke", "--data", f"timit={folder}"]
    assert main(["reproduce", *arguments, "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "1 files of TIMIT are missing: TRAIN/DR1/MTRX0/SX3.PHN; copy the corpus" in line
    assert not (tmp_path / "out").exists()


def test_a_half_written_row_is_named_and_nothing_is_overwritten(finished, tmp_path, capsys):
    folder, command = finished
    row = next(folder.glob("trials/*/row.json"))
    whole = row.read_bytes()
    row.write_bytes(whole[: len(whole) // 2])
    page = (folder / "index.html").read_bytes()
    try:
        assert main(command) == 2
        assert str(row) in capsys.readouterr().err
        assert row.read_bytes() == whole[: len(whole) // 2]
        assert (folder / "index.html").read_bytes() == page
    finally:
        row.write_bytes(whole)


def test_places_are_read_with_and_without_names():
    assert find_sources("fig4", "MNIST=some/folder") == {"MNIST": "some/folder"}
    assert find_sources("fig4", "ylecun/mnist") == {"ylecun/mnist": "ylecun/mnist"}
    assert find_sources("fig1", "mnist=a,cifar10=b") == {"mnist": "a", "cifar10": "b"}


def test_places_here_are_given_whole_to_processes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "mine" / "Train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    full = str(tmp_path / "mine")
    assert find_sources("fig4", "mine") == {"mine": full}
    assert find_sources("speech", "fsdd=mine") == {"fsdd": full}
    assert find_sources("speech", "mine") == {"timit": full}
    (tmp_path / "mine" / "Train").rmdir()
    assert find_sources("speech", "mine") == {"fsdd": full}


def images(channels, n):
    x, y = torch.rand(n, channels, 32, 32).mul(255).round() / 255, torch.arange(n) % 10
    return Images("some", (x, y), None, (x, y), 10)


def test_images_that_do_not_suit_the_figure_are_refused(tmp_path, capsys):
    for channels, names in ((3, "colour"), (1, "grey")):
        save_images(images(channels, 20), tmp_path / f"{names}.safetensors")
    colour, grey = (f"{name}={tmp_path / name}.safetensors" for name in ("colour", "grey"))
    for figure, data, message in (
        ("fig4", colour, "colour have 3 channels, and fig4 takes 1"),
        ("fig5", grey, "grey have 1 channels, and fig5 takes 3"),
        ("fig1", f"{colour},{grey}", "fig1 takes grey images first, then colour"),
    ):
        assert main(["reproduce", figure, "--data", data, "--output", str(tmp_path / "o")]) == 2
        assert message in capsys.readouterr().err


def test_other_data_of_the_same_name_are_prepared_anew(tmp_path, monkeypatch):
    found = {"A": images(1, 20), "B": images(1, 30)}
    monkeypatch.setattr(sources, "load_images", found.__getitem__)
    files = [sources.prepare("m, n", source, tmp_path) for source in ("A", "B", "A")]
    assert files[0] == files[2] != files[1]
    assert [len(load_images(file).train[1]) for file in files] == [20, 30, 20]
