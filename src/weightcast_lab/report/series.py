"""Labelled rows -> curves: mean and spread over seeds at each fraction.

A line is one curve in one setting (columns, activation, pretrained, data, or whatever else the
labels hold). Rows of different settings never meet in one mean.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from weightcast_lab.report.entries import entry, is_number, number
from weightcast_lab.report.results import Result

# As in the paper's figure 4, the references first; other names follow by the alphabet.
ORDER = (
    "dense",
    "nokernel",
    "narrow",
    "narrow dense",
    "LowRank",
    "RandCon-RandCon",
    "RandFixU-RandFixU",
    "SE-Emp",
    "SE-Emp2",
    "SE-AE",
    "Emp-Emp",
)


@dataclass(frozen=True)
class ShownMetric:
    """What a chart's vertical axis shows.

    Args:
        name: as rows have it.
        title: in words, with the unit.
        digits: behind the point, in tables.
    """

    name: str
    title: str
    digits: int = 2


@dataclass(frozen=True)
class Point:
    """The runs of one line at one fraction.

    Args:
        fraction: share of the weights that is learned, or known, in (0, 1].
        seeds: of the runs.
        values: what was measured, one per seed: errors in percent, losses in nats.
    """

    fraction: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Line:
    """One curve in one setting.

    Args:
        curve: its name.
        settings: what it was measured in, as text; only what its rows say.
        points: by metric, ordered by fraction.
    """

    curve: str
    settings: dict[str, str]
    points: dict[str, tuple[Point, ...]]

    @property
    def is_reference(self) -> bool:
        """Whether all weights are learned: a level to compare with rather than a curve."""
        return all(p.fraction == 1 for points in self.points.values() for p in points)

    def fits(self, chosen: dict[str, str]) -> bool:
        """Whether no setting of its own speaks against these."""
        return all(self.settings.get(name, value) == value for name, value in chosen.items())


@dataclass(frozen=True)
class Sample:
    """One run, as far as a chart needs it.

    Args:
        result: its row.
        curve: the line's name.
        fraction: where on the horizontal axis.
        settings: what else sets it apart.
        values: what was measured, by metric: errors in percent, losses in nats.
    """

    result: Result
    curve: str
    fraction: float
    settings: dict[str, str]
    values: dict[str, float]


def samples(results: Sequence[Result]) -> list[Sample]:
    """Read labelled rows.

    Args:
        results: rows with labels ``curve`` and ``fraction``, and ``metrics.test_error`` in percent;
            further metrics named ``..._error`` are percent too. ``test_loss`` is in nats.

    Raises:
        ValueError: a row that lacks one of these, or holds one that is no finite number.
    """
    return [_sample(result) for result in results]


def make_lines(found: Sequence[Sample]) -> list[Line]:
    """Group runs by curve and setting, curves in the order of :data:`ORDER`."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Sample]] = {}
    for sample in found:
        groups.setdefault((sample.curve, tuple(sorted(sample.settings.items()))), []).append(sample)
    ordered = sorted(groups, key=lambda key: (rank(key[0]), [_natural(v) for _, v in key[1]]))
    return [Line(curve, dict(rest), _points(groups[curve, rest])) for curve, rest in ordered]


def setting_values(lines: Sequence[Line]) -> dict[str, list[str]]:
    """What was set, and to which values, both in order."""
    values: dict[str, set[str]] = {}
    for line in lines:
        for name, value in line.settings.items():
            values.setdefault(name, set()).add(value)
    order = ("data", "columns", "activation", "pretrained")
    names = sorted(values, key=lambda n: (order.index(n) if n in order else len(order), n))
    return {name: sorted(values[name], key=_natural) for name in names}


def varying(lines: Sequence[Line]) -> dict[str, list[str]]:
    """The settings that hold more than one value, with the values in order."""
    return {name: values for name, values in setting_values(lines).items() if len(values) > 1}


def most_common(lines: Sequence[Line]) -> dict[str, str]:
    """The setting that most points are measured in: what a page shows first."""
    names = list(varying(lines))
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for line in lines:
        if all(name in line.settings for name in names):
            chosen = tuple((name, line.settings[name]) for name in names)
            counts[chosen] += sum(map(len, line.points.values()))
    if counts:
        return dict(counts.most_common(1)[0][0])
    return {name: values[0] for name, values in varying(lines).items()}


def rank(curve: str) -> tuple[int, str]:
    """Where a curve stands among others."""
    return (ORDER.index(curve) if curve in ORDER else len(ORDER), curve)


def in_words(name: str, value: str) -> str:
    """A setting as a reader would say it."""
    if name == "columns":
        return f"{value} column{'' if value == '1' else 's'}"
    if value in ("yes", "no"):
        word = name.replace("pretrained", "pre-trained").replace("_", " ")
        return word if value == "yes" else f"not {word}"
    return value if name in ("activation", "data") else f"{name.replace('_', ' ')} {value}"


def _sample(result: Result) -> Sample:
    row, where = result.row, result.where
    fraction = number(row, where, "labels", "fraction")
    if not 0 < fraction <= 1:
        raise ValueError(
            f"{where}: labels.fraction is {fraction:g}: it is a share of weights, in (0, 1]"
        )
    settings = {
        name: _text(value)
        for name, value in result.labels.items()
        if name not in ("curve", "fraction")
    }
    metrics = entry(row, where, "metrics")
    shown = re.compile(r".*_error(_\d+)?|test_loss")
    errors = {k: v for k, v in metrics.items() if shown.fullmatch(k) and is_number(v)}
    return Sample(
        result,
        str(entry(row, where, "labels", "curve")),
        fraction,
        settings | {"data": str(entry(row, where, "dataset"))},
        {"test_error": number(row, where, "metrics", "test_error")} | errors,
    )


def _points(group: Sequence[Sample]) -> dict[str, tuple[Point, ...]]:
    names = dict.fromkeys(name for sample in group for name in sample.values)
    return {name: tuple(_points_of(group, name)) for name in names}


def _points_of(group: Sequence[Sample], name: str) -> Iterable[Point]:
    by_fraction: dict[float, list[Sample]] = {}
    for sample in group:
        if name in sample.values:
            by_fraction.setdefault(sample.fraction, []).append(sample)
    for fraction in sorted(by_fraction):
        runs = by_fraction[fraction]
        seeds = tuple(int(number(run.result.row, run.result.where, "seed")) for run in runs)
        yield Point(fraction, seeds, tuple(run.values[name] for run in runs))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if is_number(value) else str(value)


def _natural(text: str) -> tuple[float, str]:
    """Numbers by size, before words."""
    try:
        return (float(text), "")
    except ValueError:
        return (float("inf"), text)
