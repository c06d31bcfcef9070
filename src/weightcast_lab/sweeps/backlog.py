"""The backlog: a queue of cells in order of worth, worked off for as long as there is time.

Each trial has its folder, as in a sweep, with two more entries::

    claim          held by the queue that runs the trial: others take the next
    checkpoints/   the state after the last epoch, from which a trial that was stopped goes on

A finished trial's row is put into its cell's file, and counts as done wherever that file is, with
or without the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from weightcast.files import write_text
from weightcast_lab.sweeps.attempt import read_row, seconds_of
from weightcast_lab.sweeps.cells import KINDS_THAT_CHOOSE, Cell
from weightcast_lab.sweeps.locks import claimed, locked
from weightcast_lab.sweeps.processes import LocalPool
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.sweeps.standing import State
from weightcast_lab.sweeps.trial import Place, Trial

CHOICES = "evidence_choices.ndjson"  # no .jsonl: pages are drawn from those, by test errors
"""The file of all rows that chose: they have no test error."""

CLAIM, LOCK, CHECKPOINTS = "claim", "rows.lock", "checkpoints"

_PATIENCE = 2.0
"""Seconds until we look again for what other queues have finished."""


class Backlog:
    """What is done of some cells, and what comes next.

    Args:
        cells: what matters most first.
        root: of the trials' folders.
        results: the folder of the files of rows.

    Raises:
        ValueError: a file or a trial's folder that holds something else.
    """

    def __init__(self, cells: Sequence[Cell], root: Path, results: Path) -> None:
        self.cells, self.root, self.results = cells, root, results
        self.state = State(root, [])
        self._listed: set[str] = set()
        root.mkdir(parents=True, exist_ok=True)
        self.read()

    def read(self) -> None:
        """Find all rows, other queues' too, and list in the files those that folders alone have."""
        with locked(self.root / LOCK):
            for name in dict.fromkeys([CHOICES, *(cell.file for cell in self.cells)]):
                if (self.results / name).exists():
                    rows = {row["trial"]: row for row in read_rows(self.results / name)}
                    self.state.rows |= rows
                    self._listed |= rows.keys()
            for cell in self.cells:
                self._list(cell, cell.offered.values())
                self._list(cell, cell.trials(self.state.rows))  # known once the choices are

    def open_trials(self, *, gpu: bool) -> list[Trial]:
        """What is neither done nor was tried in vain by this queue, in its order.

        Args:
            gpu: whether there will be one: then the cells that wait for it come first.
        """
        suiting = [cell for cell in self.cells if gpu or not cell.gpu]
        return [
            trial
            for cell in sorted(suiting, key=lambda cell: not cell.gpu)
            for trial in cell.trials(self.state.rows)
            if trial.key not in self.state.rows and trial.key not in self.state.errors
        ]

    def take(self, *, gpu: bool) -> tuple[Trial, ExitStack] | None:
        """The next trial that nobody is at work on, and the claim that keeps others off it."""
        self.read()
        for trial in self.open_trials(gpu=gpu):
            if not self.state.prepare(trial):
                continue
            claim = ExitStack()
            try:
                claim.enter_context(claimed(self.root / trial.key / CLAIM, shared=False))
            except BlockingIOError:
                continue
            if read_row(self.root / trial.key, trial) is None:
                return trial, claim
            claim.close()  # another queue was through with it just now
        return None

    def settle(self, trial: Trial, future: Future[str | None]) -> None:
        """Keep what became of a trial."""
        self.state.take(trial, future)
        self.read()

    def _list(self, cell: Cell, trials: Iterable[Trial]) -> None:
        """Put rows that folders alone have into their files: each whole, or not at all."""
        for trial in trials:
            folder = self.root / trial.key
            row = None if trial.key in self._listed else read_row(folder, trial)
            if row is None:
                continue
            seconds = seconds_of(folder)
            row["metrics"] |= {} if seconds is None else {"trial_seconds": seconds}
            path = self.results / (CHOICES if trial.kind in KINDS_THAT_CHOOSE else cell.file)
            before = path.read_text("utf-8") if path.exists() else ""
            write_text(path, before + json.dumps(row, ensure_ascii=False) + "\n")
            self.state.rows[trial.key] = row
            self._listed.add(trial.key)


class _TimeIsUp(Exception):  # noqa: N818 - as StopIteration, it is no error
    """Ends what runs, which goes on from its checkpoints later."""


def work(
    backlog: Backlog,
    place: Place,
    *,
    seconds: float,
    jobs: Mapping[bool, int],
    say: Callable[[str], object] = lambda line: None,
) -> bool:
    """Work off a backlog until its end, or until the time is up.

    Args:
        backlog: what is to be done.
        place: where its data lie.
        seconds: after which all that runs is ended. A trial loses what it has done since its last
            epoch ended, or, before its first one has, all.
        jobs: trials at a time, each on one thread: without a GPU (False) and with one (True).
        say: told of each trial that has ended.

    Returns:
        Whether nothing is left that could be done here.
    """
    end = time.monotonic() + seconds
    place = replace(place, threads=1, checkpoints=CHECKPOINTS)
    running: _Running = {}
    try:
        with ExitStack() as stack:
            pools = {
                gpu: LocalPool(n, replace(place, accelerator="gpu" if gpu else "cpu"))
                for gpu, n in jobs.items()
            }
            for pool in pools.values():
                stack.enter_context(pool)
            while _start(backlog, pools, jobs, running):
                left = min(end - time.monotonic(), _PATIENCE)
                if left <= 0:
                    raise _TimeIsUp
                if running:
                    wait(running, timeout=left, return_when=FIRST_COMPLETED)
                else:  # others are at work on all there is
                    time.sleep(left)
                for future in [future for future in running if future.done()]:
                    _, trial, claim = running.pop(future)
                    backlog.settle(trial, future)
                    claim.close()
                    end_of_it = "failed" if trial.key in backlog.state.errors else "done"
                    say(f"{end_of_it}: {trial.config.experiment}, {trial.label} ({trial.key})")
    except _TimeIsUp:
        return False
    finally:
        for _, _, claim in running.values():
            claim.close()
        backlog.read()  # a row may have been written since
    return True


_Running = dict[Future[str | None], tuple[bool, Trial, ExitStack]]
"""By its future: whether a trial has a GPU, the trial, and the claim on it."""


def _start(
    backlog: Backlog, pools: Mapping[bool, LocalPool], jobs: Mapping[bool, int], running: _Running
) -> bool:
    """Give work to all that are idle; whether anything is being done, here or by other queues."""
    for gpu in sorted(pools, reverse=True):
        while sum(lane == gpu for lane, _, _ in running.values()) < jobs[gpu]:
            taken = backlog.take(gpu=gpu)
            if taken is None:
                break
            trial, claim = taken
            running[pools[gpu].submit(backlog.root / trial.key)] = (gpu, trial, claim)
    return bool(running) or bool(backlog.open_trials(gpu=True in jobs))
