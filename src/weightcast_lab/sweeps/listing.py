"""The list of a backlog: what is done, what is missing, how long it takes, what it is for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from itertools import groupby

from weightcast_lab.sweeps.backlog import Backlog
from weightcast_lab.sweeps.cells import Cell
from weightcast_lab.sweeps.rows import Row


def listing(backlog: Backlog) -> str:
    """A line for each cell, in order of worth, below what it is for, and one for what is left.

    Args:
        backlog: with what it has read.
    """
    lines = ["   done  min each"]
    for why, cells in groupby(
        backlog.cells, lambda cell: cell.why + " Waits for a GPU." * cell.gpu
    ):
        lines.append(why)
        lines += [line for cell in cells for line in _describe(cell, backlog)]
    left, unknown = _left(backlog)
    total = f"{len(backlog.state.rows)} rows are there; without a GPU about {left / 3600:.1f} hours"
    total += " of one core are left" + f", and {unknown} trials of unknown length" * (unknown > 0)
    return "\n".join([*lines, total])


def seconds_each(cell: Cell, backlog: Backlog) -> tuple[float | None, bool]:
    """How long a trial of a cell takes, and whether that was measured in the cell itself.

    Args:
        cell: of the backlog.
        backlog: where no row of the cell tells, those of cells like it do, with the same file and
            the same need for a GPU; None where none of them does either.
    """
    rows = backlog.state.rows
    own = _mean_seconds(cell, rows)
    if own is not None:
        return own, True
    alike = [c for c in backlog.cells if (c.file, c.gpu) == (cell.file, cell.gpu)]
    known = [seconds for c in alike if (seconds := _mean_seconds(c, rows)) is not None]
    return (statistics.fmean(known) if known else None), False


def _describe(cell: Cell, backlog: Backlog) -> Iterable[str]:
    rows, rate = backlog.state.rows, cell.rate(backlog.state.rows)
    done = sum(trial.key in rows for trial in cell.trials(rows))
    seconds, measured = seconds_each(cell, backlog)
    minutes = "?" if seconds is None else f"{'' if measured else '~'}{seconds / 60:.1f}"
    yield f"{done:>3}/{cell.n_trials:<3} {minutes:>9}  {cell.name}" + _say_rate(cell, rate)
    for trial in cell.trials(rows):
        error = backlog.root / trial.key / "error.txt"
        if trial.key not in rows and error.exists():
            yield f"{'':19}failed: {trial.label}: {error}"


def _say_rate(cell: Cell, rate: float | None) -> str:
    if rate is None:
        return ", rate not chosen yet" * bool(cell.choices)
    at_end = rate in (min(cell.choices), max(cell.choices))
    return f", rate {rate:g}" + " (the end of those tried)" * at_end


def _mean_seconds(cell: Cell, rows: Mapping[str, Row]) -> float | None:
    metrics = [rows[trial.key]["metrics"] for trial in cell.trials(rows) if trial.key in rows]
    known = [found["trial_seconds"] for found in metrics if "trial_seconds" in found]
    return statistics.fmean(known) if known else None


def _left(backlog: Backlog) -> tuple[float, int]:
    """Seconds of what is missing and needs no GPU, and how many trials are of unknown length."""
    total, unknown, seen = 0.0, 0, set[str]()
    for cell in (cell for cell in backlog.cells if not cell.gpu):
        known = cell.trials(backlog.state.rows)
        missing = {trial.key for trial in known if backlog.is_open(trial)} - seen
        seen |= missing
        n = len(missing) + cell.n_trials - len(known)
        seconds, _ = seconds_each(cell, backlog)
        if seconds is None:
            unknown += n
        else:
            total += n * seconds
    return total, unknown
