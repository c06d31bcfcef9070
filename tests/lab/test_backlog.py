"""The backlog: what comes next, who takes it, and where its rows go; processes are elsewhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import weightcast
from tests.lab.backlogs import RATES, cells, config
from weightcast.files import write_text
from weightcast_lab.studies import train
from weightcast_lab.sweeps.attempt import run_folder, seconds_of
from weightcast_lab.sweeps.backlog import Backlog
from weightcast_lab.sweeps.listing import listing
from weightcast_lab.sweeps.rows import append_row, read_rows
from weightcast_lab.sweeps.trial import Place, Trial, run
from weightcast_lab.training import Interrupted, build

PLACE = Place(accelerator="cpu")
KEPT = replace(PLACE, checkpoints="checkpoints")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folders and files of a tiny backlog whose trials were all run in this process."""
    folder = tmp_path_factory.mktemp("finished")
    backlog, order = Backlog(cells(), folder / "root", folder / "results"), []
    while (taken := backlog.take(gpu=False)) is not None:
        trial, claim = taken
        with claim:
            assert run_folder(backlog.root / trial.key, KEPT) == 0
        order.append((trial.kind, trial.config.training.learning_rate, trial.config.seed))
    return folder, order


def open_copy(finished, tmp_path, **arguments):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return Backlog(cells(**arguments), tmp_path / "root", tmp_path / "results")


def test_choices_come_first_and_the_best_rate_runs_with_every_seed(finished, tmp_path):
    backlog = open_copy(finished, tmp_path)
    choices = {
        row["labels"]["learning_rate"]: row["metrics"]
        for row in read_rows(tmp_path / "results" / "evidence_choices.ndjson")
    }
    errors = {rate: metrics["validation_error"] for rate, metrics in choices.items()}
    assert errors.keys() == set(RATES)
    assert errors[RATES[0]] != errors[RATES[1]]
    assert not any("test" in name for metrics in choices.values() for name in metrics)
    best = min(RATES, key=errors.__getitem__)
    assert finished[1] == [
        ("choice", RATES[0], 0),
        ("choice", RATES[1], 0),
        ("train", best, 0),
        ("train", best, 1),
        ("train", 2e-3, 0),
        ("train", 2e-3, 1),
    ]
    assert backlog.cells[0].rate(backlog.state.rows) == best
    assert backlog.open_trials(gpu=True) == []
    runs = read_rows(tmp_path / "results" / "pair.jsonl")
    assert all(row["labels"]["learning_rate"] == "chosen" for row in runs)
    assert all(row["metrics"]["test_error"] < 90 for row in runs)


def test_a_choice_never_reads_the_test_split(tmp_path, monkeypatch):
    seen = []
    measure = train.fit.__globals__["measure"]
    monkeypatch.setitem(
        train.fit.__globals__,
        "measure",
        lambda model, split: seen.append(len(split[1])) or measure(model, split),
    )
    trial = cells(epochs=1)[0].choices[RATES[0]]
    row = run(trial, PLACE)
    assert seen == [500]  # what was set aside; the digits' test split has 1,000
    assert row["metrics"].keys() == {
        "validation_error", "validation_loss", "train_loss", "train_seconds",
    }  # fmt: skip
    with pytest.raises(ValueError, match="n_validation is 0: set examples aside"):
        run(Trial("choice", replace(trial.config, n_validation=0)), PLACE)


def test_rows_that_only_folders_have_are_listed_once(finished, tmp_path):
    backlog = open_copy(finished, tmp_path)
    path = tmp_path / "results" / "pair.jsonl"
    before = read_rows(path)
    shutil.rmtree(tmp_path / "results")  # as where a queue was killed before it wrote them
    append_row(path, before[1])
    again = Backlog(cells(), backlog.root, backlog.results)
    assert [row["seed"] for row in read_rows(path)] == [1, 0]
    assert again.open_trials(gpu=False) == []
    Backlog(cells(), backlog.root, backlog.results)
    assert len(read_rows(path)) == 2
    assert all(row["metrics"]["trial_seconds"] > 0 for row in read_rows(path))


def test_a_finished_trial_keeps_no_checkpoints(finished):
    assert len(list(finished[0].glob("root/*/row.json"))) == 6
    assert not list(finished[0].glob("root/*/checkpoints"))


def test_what_another_queue_runs_is_left_to_it(tmp_path):
    one = Backlog(cells(), tmp_path / "root", tmp_path / "results")
    first = one.take(gpu=False)
    second = Backlog(cells(), tmp_path / "root", tmp_path / "results").take(gpu=False)
    assert first is not None
    assert second is not None
    assert [first[0].key, second[0].key] == [t.key for t in cells()[0].choices.values()]
    third = one.take(gpu=False)
    assert third is not None
    assert third[0].config.variant == "dense"  # the pair waits for its choices
    program = """
import sys
from pathlib import Path
from tests.lab.backlogs import cells
from weightcast_lab.sweeps.backlog import Backlog
taken = Backlog(cells(), Path(sys.argv[1]), Path(sys.argv[2])).take(gpu=False)
print(taken[0].key)
"""
    home = Path(__file__).parents[2]
    paths = os.pathsep.join([str(Path(weightcast.__file__).parents[1]), str(home)])
    found = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "root", tmp_path / "results"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    key = found.stdout.strip()
    assert key == cells()[1].trials({})[1].key
    for _, claim in (first, second, third):
        claim.close()
    again = one.take(gpu=False)
    assert again is not None
    assert again[0].key == first[0].key
    again[1].close()


def test_cells_that_wait_for_a_gpu_come_first_where_there_is_one(tmp_path):
    plain, waiting = cells()[1], cells(gpu=True)[0]
    backlog = Backlog([plain, waiting], tmp_path / "root", tmp_path / "results")
    assert [t.kind for t in backlog.open_trials(gpu=False)] == ["train", "train"]
    assert [t.kind for t in backlog.open_trials(gpu=True)] == ["choice", "choice", "train", "train"]


def test_a_trial_that_failed_is_tried_once_a_queue_and_holds_up_its_own_cell_alone(tmp_path):
    wrong = Trial("train", replace(config(1e-3, 0, 1), data="./no/where"))
    cell = replace(cells()[1], make=lambda _: [wrong, *cells()[1].trials({})])
    backlog = Backlog([cell], tmp_path / "root", tmp_path / "results")
    taken = backlog.take(gpu=False)
    assert taken is not None
    assert taken[0] == wrong
    with taken[1]:
        assert run_folder(backlog.root / wrong.key, KEPT) == 3
    backlog.state.errors[wrong.key] = "as its process told"
    following = backlog.take(gpu=False)
    assert following is not None
    assert following[0] != wrong
    following[1].close()
    assert f"failed: {wrong.label}: {backlog.root / wrong.key / 'error.txt'}" in listing(backlog)


def test_the_list_says_what_is_done_how_long_it_takes_and_what_it_is_for(finished, tmp_path):
    backlog = open_copy(finished, tmp_path, dense_seeds=3)
    for row in read_rows(tmp_path / "results" / "dense.jsonl"):
        backlog.state.rows[row["trial"]]["metrics"]["trial_seconds"] = 90.0 * (1 + row["seed"])
    head, why, pair, why_dense, dense, total = listing(backlog).splitlines()
    assert head.split() == ["done", "min", "each"]
    assert (why, why_dense) == ("Does it learn?", "What it is compared with.")
    best = backlog.cells[0].rate(backlog.state.rows)
    assert pair.split()[0] == "4/4"
    assert pair.endswith(f"pair, rate {best:g} (the end of those tried)")
    assert dense.split() == ["2/3", "2.2", "dense"]  # 90 and 180 s
    assert total.startswith("6 rows are there; without a GPU about 0.0 hours of one core are left")

    empty = Backlog(cells(gpu=True), tmp_path / "a", tmp_path / "b")
    lines = listing(empty).splitlines()
    assert lines[1] == "Does it learn? Waits for a GPU."
    assert lines[2].split() == ["0/4", "?", "pair,", "rate", "not", "chosen", "yet"]
    assert lines[-1].endswith("and 2 trials of unknown length")


def test_only_one_attempt_tells_how_long_a_trial_takes(tmp_path):
    log = tmp_path / "attempts.log"
    assert seconds_of(tmp_path) is None
    start = "2026-01-01T00:00:00.000+00:00 7 start\n"
    write_text(log, start)
    assert seconds_of(tmp_path) is None
    write_text(log, start + "2026-01-01T00:01:30.500+00:00 7 end\n")
    assert seconds_of(tmp_path) == 90.5
    write_text(log, start + start + "2026-01-01T00:01:30.500+00:00 7 end\n")
    assert seconds_of(tmp_path) is None


def test_a_stopped_trial_goes_on_from_its_checkpoint_without_pre_training(tmp_path, monkeypatch):
    """To the last bit, dictionaries from data and from the pre-trained layer below included."""
    trial = Trial("train", replace(config(1e-2, 0, 12), plan=_autoencoders()))
    undisturbed = run(trial, PLACE)
    place = replace(PLACE, checkpoints=str(tmp_path / "kept"))
    last = tmp_path / "kept" / "last.ckpt"

    def interrupt():
        end = time.monotonic() + 120
        while not last.exists() and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        run(trial, place)
    thread.join()
    assert last.exists()

    asked = []
    fit = train.fit
    monkeypatch.setattr(train, "fit", lambda *a, **kw: asked.append(kw["resume"]) or fit(*a, **kw))
    monkeypatch.delattr(build, "pretrain")  # to pre-train again would be an error
    resumed = run(trial, place)
    assert asked == [True]
    for row in (undisturbed, resumed):
        del row["metrics"]["train_seconds"]
    assert json.dumps(resumed) == json.dumps(undisturbed)


def _autoencoders():
    from weightcast_lab.sweeps.curves import Grid, Shape, find_curve, make_plan

    layers = {"hidden1": Shape(784, 500, Grid((28, 28))), "hidden2": Shape(500, 500)}
    curve = find_curve("SE-AE")
    few = replace(curve, elsewhere=replace(curve.elsewhere, n_features=100, epochs=1))
    return make_plan(few, layers, 0.05, 2).to_dict()
