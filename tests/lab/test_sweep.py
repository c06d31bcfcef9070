"""Trials, their folders, and what a sweep does with them; processes are in test_sweep_kill."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import weightcast
from weightcast.files import write_text
from weightcast_lab.sweeps import attempt
from weightcast_lab.sweeps.attempt import FAILED, read_row, run_folder
from weightcast_lab.sweeps.executors import Outcome
from weightcast_lab.sweeps.locks import claimed, locked
from weightcast_lab.sweeps.processes import LocalPool
from weightcast_lab.sweeps.rows import make_row, read_rows
from weightcast_lab.sweeps.sweep import SweepInterrupted, divide, sweep
from weightcast_lab.sweeps.trial import Place, Trial, load_kind
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings

CONFIG = TrainConfig(model=ModelSettings(hidden=(8, 8)), variant="5 % learned", experiment="fig4")


def trial(seed=0, **changes):
    return Trial("train", replace(CONFIG, seed=seed, **changes))


def make_result(one, error=4.25):
    row = make_row(
        experiment=one.config.experiment,
        variant=one.config.variant,
        dataset="digits",
        seed=one.config.seed,
        config=one.config.to_dict(),
        counts={},
        metrics={"test_error": error},
    )
    return row | {"trial": one.key}


class InThisProcess:
    """An executor that trains nothing: every trial gets a row, but for those in ``failing``."""

    def __init__(self, failing=(), raising=(), stop_at=None):
        self.failing, self.raising, self.stop_at = failing, raising, stop_at
        self.submitted = []

    def submit(self, function, /, *arguments):
        text, _, _ = arguments
        one = Trial.from_json(text)
        if one.config.seed == self.stop_at:
            raise KeyboardInterrupt
        self.submitted.append(one.config.seed)
        future = Future()
        if one.config.seed in self.raising:
            future.set_exception(RuntimeError("the machine is gone"))
        elif one.config.seed in self.failing:
            trace = "Traceback (most recent call last):\nValueError: too few\n"
            future.set_result(Outcome(None, trace, attempts="start\nfailed\n", log="so far\n"))
        else:
            row = json.dumps(make_result(one)) + "\n"
            future.set_result(Outcome(row, None, attempts="start\nend\n"))
        return future


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_the_key_is_the_hash_of_the_canonical_json():
    one = trial(3)
    text = json.dumps(
        {"kind": "train", "config": one.config.to_dict()}, sort_keys=True, separators=(",", ":")
    )
    assert one.key == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert Trial.from_json(one.to_json()) == one
    assert one.label == "5 % learned, seed 3"
    assert trial(variant=None).label == "train, seed 0"


def test_trials_have_one_key_if_and_only_if_they_are_equal():
    settings = TrainingSettings(learning_rate=1)  # as a user may write it
    assert trial(training=settings).key == trial(training=TrainingSettings(learning_rate=1.0)).key
    others = [trial(1), trial(data="mnist"), trial(training=settings), trial(variant="other")]
    assert len({one.key for one in [trial(), *others]}) == 5


def test_what_cannot_be_a_trial_is_refused():
    with pytest.raises(ValueError, match="no trial of kind 'trian'; known: train, filters"):
        Trial("trian", CONFIG)
    with pytest.raises(ValueError, match=r"labels is .*Out of range"):
        trial(labels={"fraction": float("nan")}).to_json()
    with pytest.raises(ValueError, match="file: no JSON"):
        Trial.from_json('{"kind": "train", "conf', "file")
    with pytest.raises(ValueError, match="a trial has 'kind' and 'config', not \\['kind'\\]"):
        Trial.from_json('{"kind": "train"}')
    with pytest.raises(ValueError, match="no field 'sed'; did you mean 'seed'"):
        Trial.from_json('{"kind": "train", "config": {"sed": 1}}')
    with pytest.raises(ValueError, match="threads is 0"):
        Place(threads=0)


def test_a_place_comes_back_from_its_json():
    place = Place(data="some/where", accelerator="gpu", threads=3)
    assert Place.from_json(place.to_json()) == place
    with pytest.raises(ValueError, match="no field 'thread'; did you mean 'threads'"):
        Place.from_json('{"thread": 1}')


def test_trials_are_run_by_their_kind():
    from weightcast_lab.studies import train

    assert load_kind("train") is train.run
    with pytest.raises(ValueError, match="no trial of kind 'demo'"):
        load_kind("demo")


def test_a_sweep_leaves_a_folder_for_each_trial_and_all_rows_in_order(tmp_path):
    trials = [trial(seed) for seed in (2, 0, 1)]
    result = sweep(trials, tmp_path / "new" / "sweep", executor=InThisProcess(), progress=False)
    folder = tmp_path / "new" / "sweep"
    assert result.rows == [make_result(one) for one in trials]
    assert result.failures == []
    assert read_rows(folder / "rows.jsonl") == result.rows
    for one in trials:
        text = (folder / one.key / "trial.json").read_bytes()
        assert hashlib.sha256(text).hexdigest().startswith(one.key)
        assert read_rows(folder / one.key / "row.json") == [make_result(one)]
        assert (folder / one.key / "attempts.log").read_text() == "start\nend\n"


def test_a_second_sweep_does_only_what_is_missing(tmp_path):
    sweep([trial(0), trial(1)], tmp_path, executor=InThisProcess(), progress=False)
    before = contents(tmp_path)
    executor = InThisProcess()
    result = sweep([trial(2), trial(1), trial(0)], tmp_path, executor=executor, progress=False)
    assert executor.submitted == [2]
    assert [row["seed"] for row in result.rows] == [2, 1, 0]
    after = contents(tmp_path)
    assert {path: after[path] for path in before if path.name != "rows.jsonl"} == {
        path: text for path, text in before.items() if path.name != "rows.jsonl"
    }


def test_failed_trials_keep_their_traceback_are_reported_and_tried_again(tmp_path, capsys):
    trials = [trial(seed) for seed in range(4)]
    result = sweep(trials, tmp_path, executor=InThisProcess(failing=[1], raising=[2]))
    assert [row["seed"] for row in result.rows] == [0, 3]
    assert [one for one, _ in result.failures] == [trials[1], trials[2]]
    for one, error in result.failures:
        assert (tmp_path / one.key / "error.txt").read_text() == error
        assert error.startswith("Traceback")
    assert "RuntimeError: the machine is gone" in result.failures[1][1]
    assert (tmp_path / trials[1].key / "log.txt").read_text() == "so far\n"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 + 5
    assert sorted(line.partition(" ")[0] for line in lines[:4]) == ["1/4", "2/4", "3/4", "4/4"]
    said = {line.partition(" ")[2] for line in lines[:4]}
    assert "5 % learned, seed 0: test error 4.25 %" in said
    assert "5 % learned, seed 1: failed: ValueError: too few" in said
    assert lines[4:7] == [
        "2 of 4 trials failed:",
        "  5 % learned, seed 1: ValueError: too few",
        f"    {tmp_path / trials[1].key / 'error.txt'}",
    ]

    executor = InThisProcess()
    result = sweep(trials, tmp_path, executor=executor)
    assert executor.submitted == [1, 2]
    assert len(result.rows) == 4
    assert not list(tmp_path.glob("*/error.txt"))
    err = capsys.readouterr().err
    assert err.startswith("2 of 4 trials are finished already\n3/4 ")
    assert "failed" not in err


def test_a_folder_that_cannot_be_written_is_the_failure_of_its_trial_alone(tmp_path):
    trials = [trial(seed) for seed in range(5)]
    for one in trials[:2]:  # where a file is to be, even root cannot write over a folder
        (tmp_path / one.key / "error.txt" / "full").mkdir(parents=True)
    (tmp_path / trials[2].key / "attempts.log").mkdir(parents=True)
    (tmp_path / trials[3].key).write_text("a file")
    executor = InThisProcess(failing=[0], raising=[1])
    result = sweep(trials, tmp_path, executor=executor, progress=False)
    assert executor.submitted == [0, 1, 2, 4]
    assert [row["seed"] for row in result.rows] == [4]
    assert [one for one, _ in result.failures] == trials[:4]
    last = [error.splitlines()[-1] for _, error in result.failures]
    assert last[:2] == ["ValueError: too few", "RuntimeError: the machine is gone"]
    assert re.match(r"IsADirectoryError: .*attempts\.log", last[2])
    assert re.match(rf"FileExistsError: .*{trials[3].key}", last[3])
    assert read_rows(tmp_path / "rows.jsonl") == result.rows


def test_rows_of_another_version_are_kept_and_said_once(tmp_path, capsys):
    trials = [trial(seed) for seed in range(4)]
    sweep(trials[:3], tmp_path, executor=InThisProcess(), progress=False)
    for one in trials[:2]:
        path = tmp_path / one.key / "row.json"
        row = json.loads(path.read_text())
        row["versions"]["weightcast"] = "0.0.1"
        path.write_text(json.dumps(row))
    executor = InThisProcess()
    result = sweep(trials, tmp_path, executor=executor)
    assert executor.submitted == [3]
    assert len(result.rows) == 4
    here = version("weightcast")
    assert capsys.readouterr().err.splitlines() == [
        f"2 of 3 rows were made by weightcast 0.0.1, this is {here}: sweep into another folder to "
        "run them again",
        "3 of 4 trials are finished already",
        "4/4 5 % learned, seed 3: test error 4.25 %",
    ]
    sweep(trials, tmp_path, executor=executor, progress=False)
    sweep(trials[2:], tmp_path, executor=executor)
    assert capsys.readouterr().err == "2 of 2 trials are finished already\n"


def test_empty_sweeps_and_trials_given_twice_are_refused(tmp_path):
    folder, executor = tmp_path / "sweep", InThisProcess()
    with pytest.raises(ValueError, match="no trial to run: an empty sweep"):
        sweep([], folder, executor=executor)
    with pytest.raises(ValueError, match=r"5 % learned, seed 1 .* is there twice"):
        sweep([trial(1), trial(2), trial(1)], folder, executor=executor)
    with pytest.raises(ValueError, match="jobs is 0: at least 1"):
        sweep([trial(1)], folder, jobs=0)
    assert not folder.exists()
    folder.write_text("a file")
    with pytest.raises(ValueError, match="is a file: sweep into a folder"):
        sweep([trial(1)], folder, executor=executor)
    assert executor.submitted == []


def cut_short(folder, other):
    text = (folder / "row.json").read_text()
    (folder / "row.json").write_text(text[: len(text) // 2])


def empty(folder, other):
    (folder / "row.json").write_text("")


def twice(folder, other):
    (folder / "row.json").write_text(2 * (folder / "row.json").read_text())


def anothers_row(folder, other):
    (folder / "row.json").write_bytes((other / "row.json").read_bytes())


def anothers_trial(folder, other):
    (folder / "trial.json").write_bytes((other / "trial.json").read_bytes())


def no_trial(folder, other):
    (folder / "trial.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "row.json, line 1: no JSON"),
        (empty, "row.json holds 0 rows instead of one"),
        (twice, "row.json holds 2 rows instead of one"),
        (anothers_row, "row.json is the row of trial '{other}', not of 5 % learned, seed 1"),
        (anothers_trial, "trial.json is not the trial 5 % learned, seed 1"),
        (no_trial, "cannot read .*trial.json: No such file"),
    ],
)
def test_a_damaged_folder_is_named_and_nothing_is_run_or_overwritten(tmp_path, damage, message):
    one, other = trial(1), trial(0)
    sweep([other, one], tmp_path, executor=InThisProcess(), progress=False)
    damage(tmp_path / one.key, tmp_path / other.key)
    before, executor = contents(tmp_path), InThisProcess()
    with pytest.raises(ValueError, match=message.format(other=other.key)) as raised:
        sweep([trial(2), other, one], tmp_path, executor=executor)
    assert f"remove the folder {tmp_path / one.key} to run the trial again" in str(raised.value)
    assert executor.submitted == []
    assert contents(tmp_path) == before


def test_ctrl_c_says_how_far_the_sweep_went_and_keeps_the_rows(tmp_path):
    sweep([trial(0), trial(1)], tmp_path, executor=InThisProcess(), progress=False)
    trials = [trial(seed) for seed in range(5)]
    with pytest.raises(SweepInterrupted) as raised:
        sweep(trials, tmp_path, executor=InThisProcess(stop_at=3), progress=False)
    assert isinstance(raised.value, KeyboardInterrupt)
    assert str(raised.value) == (
        "stopped: 2 of 5 trials are finished; the same command goes on from here"
    )
    assert [row["seed"] for row in read_rows(tmp_path / "rows.jsonl")] == [0, 1]


def hold(path, shared=False):
    """A process that holds a lock until its stdin is closed."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+b'); fcntl.lockf(file, int(sys.argv[2])); "
        "print('held', flush=True); sys.stdin.read()"
    )
    mode = 1 if shared else 2
    process = subprocess.Popen(
        [sys.executable, "-c", code, path, str(mode)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("shared", [False, True])
def test_two_sweeps_with_executors_do_not_mix(tmp_path, shared):
    executor = InThisProcess()
    with hold(tmp_path / "lock", shared), pytest.raises(ValueError, match="another sweep is at"):
        sweep([trial(0)], tmp_path, executor=executor)
    assert executor.submitted == []
    with hold(tmp_path / "lock", shared=True), locked(tmp_path / "lock", shared=True, wait=False):
        pass  # sweeps on this machine share the folder: each trial has a lock of its own


class Held(InThisProcess):
    """An executor that is at work until ``go`` is set."""

    def __init__(self):
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def submit(self, function, /, *arguments):
        self.begun.set()
        assert self.go.wait(20)
        return super().submit(function, *arguments)


def test_two_sweeps_in_threads_of_one_process_do_not_mix(tmp_path):
    first, second = Held(), InThisProcess()
    thread = threading.Thread(
        target=sweep, args=([trial(0)], tmp_path), kwargs={"executor": first, "progress": False}
    )
    thread.start()
    try:
        assert first.begun.wait(20)
        (tmp_path.parent / "link").symlink_to(tmp_path)
        for folder in (tmp_path, tmp_path.parent / "link"):
            with pytest.raises(ValueError, match=r"another sweep is at work in .*: wait for it"):
                sweep([trial(1)], folder, executor=second, progress=False)
        with pytest.raises(ValueError, match="another sweep is at work"):
            sweep([trial(1)], tmp_path, jobs=1, progress=False)
        assert not may_lock(tmp_path / "lock", shared=True)  # the refused have not let go of it
        sweep([trial(1)], tmp_path / "other", executor=second, progress=False)
    finally:
        first.go.set()
        thread.join()
    assert second.submitted == [1]
    assert may_lock(tmp_path / "lock")
    sweep([trial(0), trial(1)], tmp_path, executor=second, progress=False)
    assert second.submitted == [1, 1]


def may_lock(path, shared=False):
    """Whether another process gets the lock."""
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a+b'), 4 | int(sys.argv[2]))"
    arguments = [sys.executable, "-S", "-c", code, str(path), "1" if shared else "2"]
    return subprocess.run(arguments, stderr=subprocess.DEVNULL).returncode == 0


def test_threads_that_share_a_folder_keep_it_until_the_last_is_through(tmp_path):
    path = tmp_path / "lock"
    with claimed(path, shared=True):
        with claimed(path, shared=True):
            assert not may_lock(path)
        assert not may_lock(path)
        assert may_lock(path, shared=True)
    assert may_lock(path)


@pytest.fixture
def folder(tmp_path):
    write_text(tmp_path / "trial.json", trial().to_json())
    return tmp_path


def events(folder):
    lines = (folder / "attempts.log").read_text().splitlines()
    assert all(re.match(rf"20\d\d-\S+\+00:00 {os.getpid()} \w+$", line) for line in lines)
    return [line.split()[-1] for line in lines]


def test_an_attempt_writes_the_row_only_once_and_says_so_after_it(folder, monkeypatch):
    seen = []

    def run(one, place):
        seen.append((one, place, torch.get_num_threads()))
        assert events(folder) == ["start"]
        row = make_result(one)
        del row["trial"]
        return row

    def write(path, text):
        assert (path.name, events(folder)) == ("row.json", ["start"])
        write_text(path, text)

    monkeypatch.setattr(attempt, "run", run)
    monkeypatch.setattr(attempt, "write_text", write)
    threads = torch.get_num_threads()
    try:
        assert run_folder(folder, Place(threads=2)) == 0
        assert run_folder(folder, Place(threads=2)) == 0
    finally:
        torch.set_num_threads(threads)
    assert seen == [(trial(), Place(threads=2), 2)]
    assert events(folder) == ["start", "end"]
    assert read_row(folder, trial()) == make_result(trial())
    assert sorted(path.name for path in folder.iterdir()) == [
        "attempts.log",
        "lock",
        "row.json",
        "trial.json",
    ]


@pytest.mark.parametrize("outcome", ["raises", "not a number"])
def test_an_attempt_that_fails_leaves_its_traceback_and_no_row(folder, monkeypatch, outcome):
    def run(one, place):
        if outcome == "raises":
            raise ValueError("the loss is nan")
        return make_result(one, error=float("nan"))

    monkeypatch.setattr(attempt, "run", run)
    assert run_folder(folder, Place()) == FAILED
    error = (folder / "error.txt").read_text()
    assert error.startswith("Traceback")
    expected = "the loss is nan" if outcome == "raises" else "Out of range float values"
    assert f"ValueError: {expected}" in error.splitlines()[-1]
    assert not (folder / "row.json").exists()
    assert read_row(folder, trial()) is None
    monkeypatch.setattr(attempt, "run", lambda one, place: make_result(one))
    assert run_folder(folder, Place()) == 0
    assert not (folder / "error.txt").exists()
    assert events(folder) == ["start", "failed", "start", "end"]


def test_a_second_process_waits_for_the_first_and_finds_its_row(folder, monkeypatch):
    monkeypatch.setattr(attempt, "run", lambda *_: pytest.fail("the trial ran twice"))
    text = json.dumps(make_result(trial()))
    code = (
        "import fcntl, os, sys, time; file = open('lock', 'a+b'); fcntl.lockf(file, 2); "
        "print('held', flush=True); time.sleep(0.5); "
        "open('new', 'w').write(sys.argv[1]); os.replace('new', 'row.json')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, text], cwd=folder, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert run_folder(folder, Place()) == 0
    assert read_row(folder, trial()) == make_result(trial())
    assert not (folder / "attempts.log").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "row.json", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "row.json", "new \ud800")
    assert contents(tmp_path) == {(tmp_path / "row.json").relative_to(tmp_path): b"before"}


def test_two_threads_may_write_one_file_at_once(tmp_path, monkeypatch):
    really_replace, path = os.replace, tmp_path / "row.json"

    def replace_after_another(source, target):
        monkeypatch.setattr(os, "replace", really_replace)
        write_text(path, "of the other thread")
        really_replace(source, target)

    monkeypatch.setattr(os, "replace", replace_after_another)
    write_text(path, "ours")
    assert contents(tmp_path) == {Path("row.json"): b"ours"}


def test_the_cores_are_divided_among_the_jobs(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert divide(100) == (12, 1)
    assert divide(5) == (5, 2)
    assert divide(1) == (1, 12)
    assert divide(100, jobs=4) == (4, 3)
    assert divide(100, jobs=50) == (50, 1)


def test_a_pool_that_is_left_by_an_exception_starts_nothing_more(folder):
    with pytest.raises(ZeroDivisionError), LocalPool(1, Place(accelerator="cpu")) as pool:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(folder)


SERVER = """
import os
from weightcast_lab.sweeps import processes
def load_kind(kind):
    print("an import prints", flush=True)
    os.write(1, b"and so does a library\\n")
def run_folder(folder, place):
    print("the trial prints", flush=True)
    return int(folder.name)
processes.load_kind, processes.run_folder = load_kind, run_folder
processes.serve(processes.Place())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="servers fork, on Linux only")
def test_what_imports_print_is_no_answer(tmp_path):
    folders = [tmp_path / code for code in ("0", "3", "0")]
    for one in set(folders):
        one.mkdir()
        write_text(one / "trial.json", trial().to_json())
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=os.environ | {"PYTHONPATH": str(Path(weightcast.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        for one in folders:
            server.stdin.write(json.dumps(str(one)) + "\n")
            server.stdin.flush()
            assert server.stdout.readline() == f"{one.name}\n"
        server.stdin.close()
        assert server.stdout.read() == ""
    said = (tmp_path / "stderr").read_text()
    assert said == 3 * "an import prints\nand so does a library\n"
    assert (tmp_path / "0" / "log.txt").read_text() == 2 * "the trial prints\n"


@pytest.mark.skipif(sys.platform != "linux", reason="servers fork, on Linux only")
def test_a_server_that_answers_anything_else_is_ended_and_the_next_trial_gets_another(
    tmp_path, monkeypatch
):
    server = tmp_path / "python"
    server.write_text(
        f"#!/bin/sh\ncd {tmp_path}\necho $$ >>pids\n"
        "if mkdir once 2>/dev/null; then echo its last words >&2; echo hello there; fi\n"
        "while read line; do echo 0; done\n"
    )
    server.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(server))
    folders = [tmp_path / name for name in "abc"]
    for one in folders:
        one.mkdir()
    with LocalPool(1, Place(accelerator="cpu")) as pool:
        broken, *others = [future.result(20) for future in map(pool.submit, folders)]
        first, second = map(int, (tmp_path / "pids").read_text().split())
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        os.kill(second, 0)
    assert others == [None, None]
    assert broken is not None
    assert "answered 'hello there' instead of an exit code, and was ended" in broken
    assert (folders[0] / "error.txt").read_text() == broken + "\n"
    assert (folders[0] / "log.txt").read_text() == "its last words\n"
    assert not (folders[1] / "error.txt").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="servers fork, on Linux only")
def test_why_a_trial_ended_is_told_even_where_it_cannot_be_written(tmp_path, monkeypatch):
    server = tmp_path / "python"
    server.write_text("#!/bin/sh\nwhile read line; do echo -9; done\n")
    server.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(server))
    (tmp_path / "a" / "error.txt" / "full").mkdir(parents=True)
    (tmp_path / "b" / "log.txt").mkdir(parents=True)
    with LocalPool(1, Place(accelerator="cpu")) as pool:
        assert "was ended by SIGKILL" in str(pool.submit(tmp_path / "a").result(20))
        with pytest.raises(IsADirectoryError, match=r"log\.txt"):
            pool.submit(tmp_path / "b").result(20)
