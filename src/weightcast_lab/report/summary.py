"""Rows of single runs -> one summary per variant -> a table to print."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weightcast.serialization import aligned
from weightcast_lab.report.entries import Row, entry, number
from weightcast_lab.report.results import Result, located


@dataclass(frozen=True)
class Summary:
    """All runs of one variant, reduced to what a table and a chart show.

    Args:
        variant: its name, as the rows have it.
        description: what it is, in a sentence; empty where the rows say nothing.
        seeds: of the single runs.
        test_errors: in per cent, one per seed.
        learned: number of learned weights.
        share: learned weights over those of the dense network, or of the largest variant where
            that has more or no row counts the dense network's; in (0, 1].
        train_seconds: mean over the runs.
        checkpoint_bytes: mean over the runs; None where they saved nothing.
    """

    variant: str
    description: str
    seeds: tuple[int, ...]
    test_errors: tuple[float, ...]
    learned: int
    share: float
    train_seconds: float
    checkpoint_bytes: float | None

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
            "-" if self.checkpoint_bytes is None else f"{round(self.checkpoint_bytes):,}",
        )


HEADINGS = (
    "variant",
    "learned weights",
    "share of dense",
    "test error (%)",
    "train time (s)",
    "checkpoint (bytes)",
)


def summarise(rows: Sequence[Row], where: Sequence[str] | None = None) -> list[Summary]:
    """Group rows by variant, in order of first appearance.

    Args:
        rows: result rows of one experiment on one data set.
        where: what to call each row in messages; None takes their numbers.

    Raises:
        ValueError: no rows, a row that lacks an entry or holds one that is no finite number, rows
            of several data sets, or one variant with two numbers of learned weights.
    """
    if not rows:
        raise ValueError("there are no rows to report: run the experiment first")
    results = located(rows, where)
    _one_dataset(results)
    groups: dict[str, list[Result]] = {}
    for result in results:
        variant = str(entry(result.row, result.where, "variant"))
        groups.setdefault(variant, []).append(result)
    largest = max(map(_largest, results))
    return [_summary(variant, group, largest) for variant, group in groups.items()]


def dataset_of(rows: Sequence[Row]) -> str:
    """The data set that all rows share.

    Raises:
        ValueError: rows of several data sets.
    """
    return _one_dataset(located(rows))


def text_table(rows: Sequence[Row], where: Sequence[str] | None = None) -> str:
    """The summaries as aligned lines of text: names to the left, numbers to the right.

    Raises:
        ValueError: as :func:`summarise`.
    """
    return aligned([HEADINGS, *(summary.cells() for summary in summarise(rows, where))])


def spread_note(summaries: Iterable[Summary]) -> str:
    """How many runs stand behind each figure, in words."""
    counts = sorted({len(summary.test_errors) for summary in summaries})
    if counts == [1]:
        return "one seed each, so no spread"
    seeds = " or ".join(map(str, counts))
    return f"mean ± standard deviation over {seeds} seeds"


def _one_dataset(results: Sequence[Result]) -> str:
    names = sorted({str(entry(result.row, result.where, "dataset")) for result in results})
    if len(names) > 1:
        raise ValueError(
            f"the rows are of {len(names)} data sets ({', '.join(names)}): errors on different "
            "data do not compare, so report each data set's rows on their own"
        )
    return names[0]


def _largest(result: Result) -> float:
    """The weights of the dense network behind a row, as far as it counts them, or its own."""
    learned = number(result.row, result.where, "counts", "learned")
    if result.row["counts"].get("dense") is None:
        return learned
    return max(learned, number(result.row, result.where, "counts", "dense"))


def _summary(variant: str, group: Sequence[Result], largest: float) -> Summary:
    def numbers(*path: str) -> tuple[float, ...]:
        return tuple(number(result.row, result.where, *path) for result in group)

    learned = set(numbers("counts", "learned"))
    if len(learned) > 1:
        raise ValueError(
            f"variant {variant!r} has rows with {min(learned):,.0f} and with {max(learned):,.0f} "
            "learned weights: give different configurations different names"
        )
    count = int(learned.pop())
    errors = numbers("metrics", "test_error")
    # Trials of a sweep save no network.
    saved = all("checkpoint_bytes" in result.row["metrics"] for result in group)
    return Summary(
        variant=variant,
        description=str(group[0].row.get("description", "")),
        seeds=tuple(int(seed) for seed in numbers("seed")),
        test_errors=errors,
        learned=count,
        share=count / largest,
        train_seconds=statistics.fmean(numbers("metrics", "train_seconds")),
        checkpoint_bytes=(
            statistics.fmean(numbers("metrics", "checkpoint_bytes")) if saved else None
        ),
    )
