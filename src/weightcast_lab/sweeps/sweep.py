"""sweep: run many trials, each in a fresh process; a second call does only what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weightcast.files import user_path, write_text
from weightcast_lab.sweeps.attempt import LOCK
from weightcast_lab.sweeps.executors import Executor, run_elsewhere
from weightcast_lab.sweeps.locks import claimed
from weightcast_lab.sweeps.processes import LocalPool
from weightcast_lab.sweeps.standing import State, SweepProgress, SweepResult
from weightcast_lab.sweeps.trial import Place, Trial

ROWS = "rows.jsonl"


class SweepInterrupted(KeyboardInterrupt):
    """A sweep was stopped by Ctrl-C; ``str()`` says how far it went."""


def sweep(
    trials: Iterable[Trial],
    folder: str | os.PathLike[str],
    *,
    place: Place | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> SweepResult:
    """Run the trials that have no row yet, and collect the rows of all.

    Args:
        trials: what to run; failed ones are tried again.
        folder: gets one folder for each trial, and ``rows.jsonl`` with the rows of these trials.
        place: where they run. On this machine the threads are divided among the jobs instead.
        executor: anything with ``submit`` as in ``concurrent.futures``, such as
            ``RayExecutor`` or a ProcessPoolExecutor; None uses this machine's cores.
        jobs: trials at a time on this machine; None is one per core.
        progress: whether to show it on stderr: a bar on a terminal, a line per trial in a log.

    Raises:
        ValueError: no trials, the same trial twice, a damaged row, or a folder that another sweep
            is at work in. Nothing has been run or overwritten then.
        SweepInterrupted: a KeyboardInterrupt: Ctrl-C. Rows of finished trials are in the folder.
    """
    trials, root, place = list(trials), user_path(folder), place or Place()
    _check(trials, jobs)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file: sweep into a folder")
    root.mkdir(parents=True, exist_ok=True)
    with _claimed(root, shared=executor is None):
        state = State(root, trials)
        try:
            with SweepProgress(state, shown=progress) as shown:
                missing = _prepare(state, shown)
                if executor is None:
                    _run_here(state, missing, place, jobs, shown)
                else:
                    _run_there(state, missing, place, executor, shown)
        except KeyboardInterrupt as interrupt:
            state.read()  # a row may have been written since
            raise SweepInterrupted(
                f"stopped: {len(state.rows)} of {len(trials)} trials are finished; the same "
                "command goes on from here"
            ) from interrupt
        finally:
            result = state.result()
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in result.rows]
            write_text(root / ROWS, "".join(lines))
    return result


def divide(n_trials: int, jobs: int | None = None) -> tuple[int, int]:
    """How many trials run on this machine at a time, and the threads that each computes with.

    The number of all trials counts, not of those that are missing: a sweep that was stopped goes
    on with the same threads, and so with the same rounding.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    jobs = min(n_trials, cores) if jobs is None else jobs
    return jobs, max(1, cores // jobs)


def _prepare(state: State, shown: SweepProgress) -> list[Trial]:
    """Make the folders of the missing trials, and return those that have one now."""
    ready = []
    for trial in state.missing():
        if state.prepare(trial):
            ready.append(trial)
        else:
            shown.update(trial)
    return ready


def _run_here(
    state: State, missing: list[Trial], place: Place, jobs: int | None, shown: SweepProgress
) -> None:
    jobs, threads = divide(len(state.trials), jobs)
    with LocalPool(jobs, replace(place, threads=threads)) as pool:
        futures = {pool.submit(state.root / trial.key): trial for trial in missing}
        _collect(state, futures, shown)


def _run_there(
    state: State, missing: list[Trial], place: Place, executor: Executor, shown: SweepProgress
) -> None:
    futures: dict[Future[Any], Trial] = {}
    try:
        for trial in missing:
            arguments = (trial.to_json(), place, version("weightcast"))
            futures[executor.submit(run_elsewhere, *arguments)] = trial
        _collect(state, futures, shown)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _collect(state: State, futures: dict[Future[Any], Trial], shown: SweepProgress) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
        shown.tick()
        for future in done:
            state.take(futures[future], future)
            shown.update(futures[future])


@contextmanager
def _claimed(root: Path, *, shared: bool) -> Iterator[None]:
    """Keep the folder for this sweep; only those on this machine share it, for trials lock too."""
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(root / LOCK, shared=shared))
        except BlockingIOError as error:
            raise ValueError(
                f"another sweep is at work in {root}: wait for it, or sweep into another folder"
            ) from error
        yield


def _check(trials: list[Trial], jobs: int | None) -> None:
    if not trials:
        raise ValueError("there is no trial to run: an empty sweep has no rows")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least 1 trial runs at a time")
    seen: dict[str, Trial] = {}
    for trial in trials:
        if trial.key in seen:
            raise ValueError(
                f"the trial {trial.label} ({trial.key}) is there twice, first as "
                f"{seen[trial.key].label}: give each config once"
            )
        seen[trial.key] = trial
