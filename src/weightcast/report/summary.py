"""Rows of single runs -> one summary per variant -> a table to print."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """All runs of one variant, reduced to what a table and a chart show.

    Args:
        variant: its name, as the rows have it.
        description: what it is, in a sentence; empty where the rows say nothing.
        seeds: of the single runs.
        test_errors: in per cent, one per seed.
        learned: number of learned weights.
        share: learned weights over those of the largest variant, in (0, 1].
        train_seconds: mean over the runs.
        checkpoint_bytes: mean over the runs.
    """

    variant: str
    description: str
    seeds: tuple[int, ...]
    test_errors: tuple[float, ...]
    learned: int
    share: float
    train_seconds: float
    checkpoint_bytes: float

    @property
    def mean(self) -> float:
        """Mean test error, in per cent."""
        return statistics.fmean(self.test_errors)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the test error over seeds; None for a single run."""
        return statistics.stdev(self.test_errors) if len(self.test_errors) > 1 else None

    def cells(self) -> tuple[str, ...]:
        """The table's cells, in the order of :data:`HEADINGS`."""
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return (
            self.variant,
            f"{self.learned:,}",
            f"{100 * self.share:.1f} %",
            f"{self.mean:.2f}{spread}",
            f"{self.train_seconds:.1f}",
            f"{round(self.checkpoint_bytes):,}",
        )


HEADINGS = (
    "variant",
    "learned weights",
    "share of dense",
    "test error (%)",
    "train time (s)",
    "checkpoint (bytes)",
)


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Group rows by variant, in order of first appearance.

    Args:
        rows: result rows of one experiment on one data set.

    Raises:
        ValueError: no rows, a row that lacks an entry or holds one that is no finite number, rows
            of several data sets, or one variant with two numbers of learned weights.
    """
    if not rows:
        raise ValueError("there are no rows to report: run the experiment first")
    dataset_of(rows)
    groups: dict[str, list[tuple[int, Row]]] = {}
    for number, row in enumerate(rows, start=1):
        groups.setdefault(str(_entry(row, number, "variant")), []).append((number, row))
    largest = max(_number(row, number, "counts", "learned") for number, row in enumerate(rows, 1))
    return [_summary(variant, group, largest) for variant, group in groups.items()]


def dataset_of(rows: Sequence[Row]) -> str:
    """The data set that all rows share.

    Raises:
        ValueError: rows of several data sets.
    """
    names = sorted({str(_entry(row, number, "dataset")) for number, row in enumerate(rows, 1)})
    if len(names) > 1:
        raise ValueError(
            f"the rows are of {len(names)} data sets ({', '.join(names)}): errors on different "
            "data do not compare, so report each data set's rows on their own"
        )
    return names[0]


def text_table(rows: Sequence[Row]) -> str:
    """The summaries as aligned lines of text: names to the left, numbers to the right.

    Raises:
        ValueError: as :func:`summarise`.
    """
    lines = [HEADINGS, *(summary.cells() for summary in summarise(rows))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def spread_note(summaries: Iterable[Summary]) -> str:
    """How many runs stand behind each figure, in words."""
    counts = sorted({len(summary.test_errors) for summary in summaries})
    if counts == [1]:
        return "one seed each, so no spread"
    seeds = " or ".join(map(str, counts))
    return f"mean ± standard deviation over {seeds} seeds"


def _summary(variant: str, group: list[tuple[int, Row]], largest: float) -> Summary:
    learned = {_number(row, number, "counts", "learned") for number, row in group}
    if len(learned) > 1:
        raise ValueError(
            f"variant {variant!r} has rows with {min(learned):,.0f} and with {max(learned):,.0f} "
            "learned weights: give different configurations different names"
        )
    count = int(learned.pop())

    def mean(metric: str) -> float:
        return statistics.fmean(_number(row, number, "metrics", metric) for number, row in group)

    return Summary(
        variant=variant,
        description=str(group[0][1].get("description", "")),
        seeds=tuple(int(_number(row, number, "seed")) for number, row in group),
        test_errors=tuple(_number(row, number, "metrics", "test_error") for number, row in group),
        learned=count,
        share=count / largest,
        train_seconds=mean("train_seconds"),
        checkpoint_bytes=mean("checkpoint_bytes"),
    )


def _entry(row: Row, number: int, *path: str) -> Any:
    value: Any = row
    for depth, key in enumerate(path, start=1):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"row {number} has no {'.'.join(path[:depth])!r}")
        value = value[key]
    return value


def _number(row: Row, number: int, *path: str) -> float:
    value = _entry(row, number, *path)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"row {number}: {'.'.join(path)} is {value!r}, not a finite number")
    return value
