"""The evidence queue in real processes: killed ten times, two at once, and out of time."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import weightcast
from tests.lab.backlogs import RATES
from weightcast_lab.sweeps.rows import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCHS = 40
DRIVER = f"""
import sys
from pathlib import Path
from tests.lab.backlogs import run
finished = run(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), epochs={EPOCHS})
print("finished" if finished else "out of time", flush=True)
"""
FILES = ("evidence_choices.ndjson", "pair.jsonl", "dense.jsonl")
N_TRIALS = 6


def start(folder, seconds=900.0):
    home = Path(__file__).parents[2]
    paths = os.pathsep.join([str(Path(weightcast.__file__).parents[1]), str(home)])
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder / "root", folder / "results", str(seconds)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=home,
    )


def finish(queue):
    """What a queue says until it ends."""
    output, _ = queue.communicate(timeout=900)
    assert queue.returncode == 0
    return output.splitlines()


def starts(folder):
    """How often each trial was started."""
    logs = (folder / "root").glob("*/attempts.log")
    return {log.parent.name: log.read_text().count(" start\n") for log in logs}


def rows(folder):
    """By file, each row once: all but its times."""
    found = {}
    for name in FILES:
        read = read_rows(folder / "results" / name)
        found[name] = {
            row["trial"]: row
            | {"metrics": {k: v for k, v in row["metrics"].items() if not k.endswith("_seconds")}}
            for row in read
        }
        assert len(found[name]) == len(read), "a row is there twice"
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The folder of a queue that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    assert finish(start(folder))[-1] == "finished"
    return folder


@pytest.fixture(scope="module")
def undisturbed(quiet):
    """Its rows."""
    found = rows(quiet)
    assert [len(found[name]) for name in FILES] == [2, 2, 2]
    assert list(starts(quiet).values()) == [1] * N_TRIALS
    return found


def test_the_better_rate_was_taken(undisturbed):
    by_rate = {row["labels"]["learning_rate"]: row for row in undisturbed[FILES[0]].values()}
    assert by_rate.keys() == set(RATES)
    assert not any("test" in name for row in by_rate.values() for name in row["metrics"])
    best = min(RATES, key=lambda rate: by_rate[rate]["metrics"]["validation_error"])
    runs = undisturbed["pair.jsonl"].values()
    assert {row["config"]["training"]["learning_rate"] for row in runs} == {best}


def wait_for(condition, queue):
    while not condition() and queue.poll() is None:
        time.sleep(0.02)


def test_killed_ten_times_it_ends_as_if_nothing_had_been(undisturbed, tmp_path):
    generator, resumable = random.Random(0), 0
    for n in range(10):
        before, kept = starts(tmp_path), (tmp_path / "root").glob
        with start(tmp_path) as queue:
            wait_for(lambda before=before: starts(tmp_path) != before, queue)
            if n % 2:  # every other time not before there is something to go on from
                wait_for(lambda kept=kept: any(kept("*/checkpoints/last.ckpt")), queue)
            time.sleep(generator.uniform(0, 3))
            queue.send_signal(signal.SIGKILL)
        resumable += any(kept("*/checkpoints/last.ckpt"))
    assert resumable >= 3  # or the test has not tried what it is for
    assert finish(start(tmp_path))[-1] == "finished"
    assert rows(tmp_path) == undisturbed
    assert sum(starts(tmp_path).values()) > N_TRIALS
    assert not any((tmp_path / "root").glob("*/checkpoints"))


def test_two_queues_at_once_do_no_trial_twice(undisturbed, tmp_path):
    said = [finish(queue) for queue in [start(tmp_path), start(tmp_path)]]
    done = [set(lines[:-1]) for lines in said]
    assert all(done), "one of them had nothing to do"
    assert not done[0] & done[1]
    assert len(done[0] | done[1]) == N_TRIALS
    assert set(starts(tmp_path).values()) == {1}
    assert rows(tmp_path) == undisturbed


def test_out_of_time_it_stops_and_goes_on_from_the_last_epoch(undisturbed, tmp_path):
    begun = time.monotonic()
    said = finish(start(tmp_path, seconds=4))
    assert said[-1] == "out of time"
    assert time.monotonic() - begun < 60
    assert len(starts(tmp_path)) < N_TRIALS
    assert finish(start(tmp_path))[-1] == "finished"
    assert rows(tmp_path) == undisturbed


def test_rows_alone_are_enough(quiet, undisturbed, tmp_path):
    """A fresh clone has the files, and none of the trials' folders."""
    shutil.copytree(quiet / "results", tmp_path / "results")
    assert finish(start(tmp_path)) == ["finished"]
    assert starts(tmp_path) == {}
    assert rows(tmp_path) == undisturbed
