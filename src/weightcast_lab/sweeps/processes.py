"""Fresh processes for trials on this machine: one for each, and none outlives its sweep.

Importing what a trial needs takes seconds, often longer than the trial. So a *server* imports it
once and forks a process for each trial, which has run nothing before::

    sweep (a thread per job)  ->  server (imports, runs nothing)  ->  trial (forked, ends)

Where forking is not safe (a GPU's driver, macOS) each trial gets an interpreter of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import torch

from weightcast_lab.sweeps.attempt import (
    ERROR,
    FAILED,
    LOG,
    end_with,
    keep_error,
    read_trial,
    run_folder,
)
from weightcast_lab.sweeps.trial import Place, load_kind

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalPool:
    """Trials on this machine, some at a time, each in a fresh process.

    Args:
        jobs: processes at a time.
        place: where the trials run; ``place.threads`` is what each of them computes with.
    """

    def __init__(self, jobs: int, place: Place) -> None:
        self._place = place
        self._threads = ThreadPoolExecutor(jobs)  # one waits for each process
        kind = _Server if _may_fork(place) else _Runner
        self._runners = [kind(place) for _ in range(jobs)]
        self._idle: queue.SimpleQueue[_Runner] = queue.SimpleQueue()
        for runner in self._runners:
            self._idle.put(runner)

    def submit(self, folder: Path) -> Future[str | None]:
        """Run the trial of a folder; the result is as :func:`run_in_folder`'s."""
        return self._threads.submit(self._run, folder)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for runner in self._runners:
                runner.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for runner in self._runners:
            runner.close()

    def _run(self, folder: Path) -> str | None:
        runner = self._idle.get()
        try:
            return runner.run(folder)
        finally:
            self._idle.put(runner)


def run_in_folder(folder: Path, place: Place) -> str | None:
    """Run the trial of a folder in an interpreter of its own, which ends with this process.

    Args:
        folder: holds trial.json.
        place: where it runs.

    Returns:
        None where the folder holds its row now; else what went wrong, as error.txt has it.
    """
    return _Runner(place).run(folder)


def read_text(path: Path) -> str:
    """What a file of a trial's folder holds; nothing where there is none."""
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def serve(place: Place) -> None:
    """Fork a process for each folder that stdin names, and answer with its exit code on stdout."""
    answers = os.dup(1)
    os.dup2(2, 1)  # imports may print: stdout is for answers alone
    context, stdin = multiprocessing.get_context("fork"), os.dup(sys.stdin.fileno())
    while line := sys.stdin.readline():
        folder = Path(json.loads(line))
        with suppress(Exception):  # the trial's process meets the same error, and keeps it
            load_kind(read_trial(folder).kind)
        process = context.Process(target=_run_forked, args=(folder, place, stdin, answers))
        process.start()
        process.join()
        os.write(answers, f"{process.exitcode}\n".encode())
        process.close()


def _run_forked(folder: Path, place: Place, stdin: int, answers: int) -> None:
    os.close(answers)  # or the sweep would not notice the end of a server that is killed
    with (folder / LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # While a trial runs, nothing is sent: the only news from the sweep is its end.
    end_with(stdin)
    sys.exit(run_folder(folder, place))


class _Runner:
    """Runs one trial at a time, in an interpreter that is started for it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self, folder: Path) -> str | None:
        with (folder / LOG).open("ab") as log:
            arguments = (str(folder), "--while-stdin-is-open")
            process = self._start("attempt", *arguments, stdout=log, stderr=log)
        with process:
            code = process.wait()
        return self._explain(folder, code)

    def kill(self) -> None:
        """End what runs, and start nothing any more; all that trials write is whole or absent."""
        with self._lock:
            self._stopped = True
            self._end()

    def close(self) -> None:
        """Let go of what waits for the next trial."""

    def _end(self) -> None:
        """End the process and what it has forked."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _start(
        self, module: str, *arguments: str, stdout: int | IO[bytes], stderr: IO[bytes]
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", f"weightcast_lab.sweeps.{module}", *arguments]
        with self._lock:
            if self._stopped:
                raise RuntimeError("the sweep was stopped")
            self._process = subprocess.Popen(
                [*command, "--place", self._place.to_json()],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                text=True,
                errors="replace",
                env=os.environ | dict.fromkeys(_THREADS, str(self._place.threads)),
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its processes itself
            )
            return self._process

    def _explain(self, folder: Path, code: int) -> str | None:
        """What went wrong, if anything, from the exit code of the trial's process."""
        if code == 0:
            return None
        if code == FAILED:
            return read_text(folder / ERROR)
        log = read_text(folder / LOG).splitlines()
        more = f": {log[-1]}" if code > 0 and log else ""
        return self._fail(folder, _describe(code) + more)

    def _fail(self, folder: Path, summary: str) -> str:
        """The end of the log and a summary, which error.txt keeps unless the sweep was stopped."""
        log = read_text(folder / LOG).splitlines()[-30:]
        error = "\n".join([f"The last lines of {LOG}:", *log, summary])
        if not self._stopped:
            keep_error(folder, error + "\n")
        return error


class _Server(_Runner):
    """Runs one trial at a time, in a process forked from one that has done the imports."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._errors: IO[bytes] | None = None

    def run(self, folder: Path) -> str | None:
        (folder / LOG).open("ab").close()  # a folder that cannot be written is named here
        process = self._process
        if process is None or process.poll() is not None:
            self.close()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
            process = self._start("processes", stdout=subprocess.PIPE, stderr=self._errors)
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # then it has no answer either
            process.stdin.write(json.dumps(str(folder)) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        try:
            code = int(answer) if answer else self._bury(process, folder)
        except ValueError:
            return self._give_up(process, folder, answer)
        return self._explain(folder, code)

    def close(self) -> None:
        if self._process is not None:
            with suppress(BrokenPipeError):  # what it was sent last, it has not read
                self._process.__exit__(None, None, None)  # its stdin ends, and it with that
        if self._errors is not None:
            self._errors.close()

    def _give_up(self, process: subprocess.Popen[str], folder: Path, answer: str) -> str:
        """End a server whose answers cannot be told from what something else printed."""
        with self._lock:
            self._end()
        self._bury(process, folder)
        return self._fail(
            folder,
            f"the process that forks the trials answered {answer.strip()!r} instead of an exit "
            "code, and was ended: something prints to its stdout before it starts to serve; sweep "
            "again to run this trial",
        )

    def _bury(self, process: subprocess.Popen[str], folder: Path) -> int:
        """The exit code of a server that has ended; its last words go into the log."""
        code = process.wait()
        if self._errors is not None:
            self._errors.seek(0)
            with (folder / LOG).open("ab") as log:
                log.write(self._errors.read())
        return code or 1


def _may_fork(place: Place) -> bool:
    """Whether a fork is as good as a new interpreter: not with a GPU's driver, not on macOS."""
    gpu = place.accelerator != "cpu" and torch.cuda.is_available()
    return sys.platform == "linux" and not gpu


def _describe(code: int) -> str:
    if code >= 0:
        return f"the trial's process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    advice = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"the trial's process was ended by {name}{advice}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser("weightcast_lab.sweeps.processes")
    parser.add_argument("--place", default="{}", help="where trials run: JSON as Place.to_json()")
    with suppress(BrokenPipeError):  # nobody waits for the answer: the sweep is gone
        serve(Place.from_json(parser.parse_args().place))
