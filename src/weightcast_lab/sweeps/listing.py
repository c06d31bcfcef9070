"""The list of a backlog: what is done, what is missing, how long it takes, what it is for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def _describe(cell: Cell, backlog: Backlog) -> Iterable[str]:
    rows = backlog.state.rows
    done = sum(trial.key in rows for trial in cell.trials(rows))
    seconds = _seconds_each(cell, backlog)
    about = "" if _mean_seconds([cell], rows) else "~"  # measured in cells like it
    minutes = "?" if seconds is None else f"{about}{seconds / 60:.1f}"
    said = _say_rate(cell.tried(rows), cell.rate(rows))
    yield f"{done:>3}/{cell.n_trials(rows):<3} {minutes:>9}  {cell.name}{said}"
    for trial in cell.trials(rows):
        error = backlog.root / trial.key / "error.txt"
        if trial.key not in rows and error.exists():
            yield f"{'':19}failed: {trial.label}: {error}"


def _say_rate(tried: Sequence[float], rate: float | None) -> str:
    if rate is None:
        return ", rate not chosen yet" * bool(tried)
    at_end = rate in (tried[0], tried[-1])
    return f", rate {rate:g}" + " (the end of those tried)" * at_end


def _seconds_each(cell: Cell, backlog: Backlog) -> float | None:
    """Of the cell's own rows, else of those with its file and its need for a GPU; else None."""
    alike = [c for c in backlog.cells if (c.file, c.gpu) == (cell.file, cell.gpu)]
    return _mean_seconds([cell], backlog.state.rows) or _mean_seconds(alike, backlog.state.rows)


def _mean_seconds(cells: Sequence[Cell], rows: Mapping[str, Row]) -> float | None:
    trials = {trial.key for cell in cells for trial in cell.trials(rows)}
    metrics = [rows[key]["metrics"] for key in trials & rows.keys()]
    known = [found["trial_seconds"] for found in metrics if "trial_seconds" in found]
    return statistics.fmean(known) if known else None


def _left(backlog: Backlog) -> tuple[float, int]:
    """Seconds of what is missing and needs no GPU, and how many trials are of unknown length."""
    total, unknown, seen = 0.0, 0, set[str]()
    for cell in (cell for cell in backlog.cells if not cell.gpu):
        known = cell.trials(backlog.state.rows)
        missing = {trial.key for trial in known} - backlog.state.rows.keys() - seen
        seen |= missing
        n = len(missing) + cell.n_trials(backlog.state.rows) - len(known)
        seconds = _seconds_each(cell, backlog)
        if seconds is None:
            unknown += n
        else:
            total += n * seconds
    return total, unknown
