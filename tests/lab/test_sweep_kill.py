"""Sweeps on this machine with real processes: killed, interrupted, and gone on with."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightcast
from weightcast_lab.sweeps.rows import Row, read_rows
from weightcast_lab.sweeps.sweep import SweepInterrupted, divide, sweep
from weightcast_lab.sweeps.trial import Place, Trial, run
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLACE = Place(accelerator="cpu")
DRIVER = """
import sys
from pathlib import Path
from weightcast_lab.sweeps.sweep import sweep
from weightcast_lab.sweeps.trial import Place, Trial
trials = [Trial.from_json(line) for line in Path(sys.argv[1]).read_text().splitlines()]
sweep(trials, sys.argv[2], place=Place(accelerator="cpu"), jobs=1)
"""


def make_trial(seed, epochs=1, **changes):
    config = TrainConfig(
        model=ModelSettings(hidden=(8, 8)),
        training=TrainingSettings(epochs=epochs),
        seed=seed,
        variant="tiny",
        **changes,
    )
    return Trial("train", config)


# From the third one, which is killed, they take long enough to be stopped in the middle.
TRIALS = [make_trial(seed, epochs=20 if seed >= 2 else 1) for seed in range(6)]


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)


def attempts(folder, trials=TRIALS):
    """For each trial that was ever started, its attempts: a list of [pid, event]."""
    found = {}
    for one in trials:
        log = folder / one.key / "attempts.log"
        if log.exists():
            found[one.key] = [line.split()[1:] for line in log.read_text().splitlines()]
    return found


def finished(folder):
    """Rows with the time they were written, to the nanosecond."""
    rows = {path.parent.name: path for path in folder.glob("*/row.json")}
    return {key: (path.read_bytes(), path.stat().st_mtime_ns) for key, path in rows.items()}


def ended(folder):
    """The trials that say that they have ended."""
    return {key for key, events in attempts(folder).items() if events[-1][1] == "end"}


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def without_times(rows):
    return [
        row | {"metrics": {k: v for k, v in row["metrics"].items() if k != "train_seconds"}}
        for row in rows
    ]


@pytest.fixture(scope="module")
def undisturbed():
    """The rows of all trials, run one after the other in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(divide(len(TRIALS), jobs=1)[1])
    try:
        rows: list[Row] = [run(one, PLACE) | {"trial": one.key} for one in TRIALS]
    finally:
        torch.set_num_threads(threads)
    assert [row["seed"] for row in rows] == list(range(6))
    assert len({row["metrics"]["test_error"] for row in rows}) > 1
    return rows


def test_a_sweep_that_was_killed_and_stopped_ends_as_if_nothing_had_been(undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    (tmp_path / "trials").write_text("".join(one.to_json() + "\n" for one in TRIALS))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "trials"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(weightcast.__file__).parents[1])},
        stderr=subprocess.DEVNULL,
    )
    # In the middle of the third trial.
    wait_for(lambda: len(finished(folder)) == 2 and len(attempts(folder)) == 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    pids = {event[0] for events in attempts(folder).values() for event in events}
    wait_for(lambda: not any(map(alive, pids)), seconds=15)  # nothing is left behind
    before = finished(folder)
    assert 2 <= len(before) < 6
    assert ended(folder) <= before.keys()  # a trial says so when its row is there
    assert not (folder / "rows.jsonl").exists()

    def interrupt():
        wait_for(lambda: len(finished(folder)) > len(before))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SweepInterrupted, match=r"^stopped: [345] of 6 trials are finished; the"):
        sweep(TRIALS, folder, place=PLACE, jobs=1, progress=False)
    thread.join()
    between = finished(folder)
    assert ended(folder) <= between.keys()
    assert len(read_rows(folder / "rows.jsonl")) == len(between) < 6

    result = sweep(TRIALS, folder, place=PLACE, jobs=1, progress=False)
    assert result.failures == []
    assert without_times(result.rows) == without_times(undisturbed)
    assert read_rows(folder / "rows.jsonl") == result.rows
    after = finished(folder)
    assert before.items() <= between.items() <= after.items()  # no row was written twice
    ends = {key: [event for _, event in events] for key, events in attempts(folder).items()}
    assert len(ends) == 6
    starts = {key: events.count("start") for key, events in ends.items()}
    for key, events in ends.items():
        # A trial that was cut off is started again, a finished one never. One that was cut off
        # between its row and the note of it is finished.
        assert events in (["start"] * starts[key] + ["end"], ["start"] * starts[key]), key
    assert len(ended(folder)) >= 4
    assert 1 <= sum(starts.values()) - 6 <= 2


def test_a_trial_that_fails_or_is_killed_is_reported_and_the_others_go_on(undisturbed, tmp_path):
    unreadable, endless = make_trial(0, data="./no/where"), make_trial(1, epochs=10_000)
    trials = [unreadable, endless, TRIALS[2]]

    def kill():
        log = tmp_path / endless.key / "attempts.log"
        wait_for(lambda: log.exists() and log.read_text().endswith("start\n"))
        os.kill(int(log.read_text().split()[1]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = sweep(trials, tmp_path, place=PLACE, jobs=1, progress=False)
    thread.join()
    assert without_times(result.rows) == without_times([undisturbed[2]])
    assert [one for one, _ in result.failures] == [unreadable, endless]
    (_, refused), (_, killed) = result.failures
    assert refused.startswith("Traceback")
    assert "ValueError: there is no data folder ./no/where" in refused
    assert (tmp_path / unreadable.key / "error.txt").read_text() == refused
    assert "the trial's process was ended by SIGKILL, perhaps for want of memory" in killed
    assert (tmp_path / endless.key / "error.txt").read_text() == f"{killed}\n"


def test_a_trial_runs_by_hand_in_an_interpreter_of_its_own(undisturbed, tmp_path):
    (tmp_path / "trial.json").write_text(TRIALS[1].to_json())
    command = [sys.executable, "-m", "weightcast_lab.sweeps.attempt", str(tmp_path)]
    # Sums of several threads add up in another order.
    place = replace(PLACE, threads=divide(len(TRIALS), jobs=1)[1])
    subprocess.run([*command, "--place", place.to_json()], check=True, timeout=90)
    assert without_times(read_rows(tmp_path / "row.json")) == without_times([undisturbed[1]])
