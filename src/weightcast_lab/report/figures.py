"""Results of any experiments -> the figures that a report shows, in the paper's order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weightcast_lab.report import learning, predictability, shrinkage
from weightcast_lab.report.entries import entry, number
from weightcast_lab.report.pictures import check_figure
from weightcast_lab.report.results import BENCHMARKS, Result
from weightcast_lab.report.series import (
    Line,
    Sample,
    ShownMetric,
    in_words,
    make_lines,
    most_common,
    samples,
    setting_values,
    varying,
)

SHARE_LEARNED = "share of weights learned, log scale"
SHARE_KNOWN = "share of weights known, log scale"

EXPLAINED = {
    "r2": "variance explained, %",
    "random_r2": "variance that as many random directions explain, %",
}
"""Of figure 1: what the kernel makes of the known weights, and what any numbers would give."""

TITLES = {
    "fig1": "Figure 1: filters, predicted from a few of their weights",
    "fig4": "Figure 4: a network of two hidden layers, with ever fewer weights learned",
    "fig5": "Figure 5: a convolutional network, with ever fewer weights learned",
    "speech": "Speech: two hidden layers, with ever fewer weights learned",
    "rica": "Reconstruction ICA: features with ever fewer weights learned",
    "modern-resnet20": "ResNet-20, with ever fewer weights learned",
    "modern-vit": "A vision transformer, with ever fewer weights learned",
    "modern-gpt": "A character GPT, with ever fewer weights learned",
}

LOSS_FIRST = ("modern-gpt",)
"""Experiments in which the loss says more than the share of wrong answers."""


@dataclass(frozen=True)
class LinesFigure:
    """Curves over shares of weights.

    Args:
        name: of its files and of its place on the page: lower-case letters, digits, hyphens.
        title: plain text.
        lines: all curves in all settings.
        metrics: what can stand on the vertical axis, the most important first.
        x_title: of the horizontal axis.
        unit: what one line is, in a word.
        filters: by network, true, known and predicted filters as data.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    metrics: tuple[ShownMetric, ...]
    x_title: str
    unit: str = "curve"
    filters: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, list[str]]:
        """Settings that hold several values, and the values."""
        return varying(self.lines)

    @property
    def common(self) -> str:
        """What all lines were measured with, in words; empty where settings say nothing."""
        single = {
            k: values[0] for k, values in setting_values(self.lines).items() if len(values) == 1
        }
        return ", ".join(in_words(name, value) for name, value in single.items())

    @property
    def shown(self) -> dict[str, str]:
        """The setting that the page shows first, and the pictures always."""
        return most_common(self.lines)


@dataclass(frozen=True)
class Comparison:
    """Networks side by side, by variant.

    Args:
        name: as of :class:`LinesFigure`.
        title: plain text.
        results: of one experiment on one data set.
    """

    name: str
    title: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Benchmark:
    """Measured times; arguments as of :class:`Comparison`."""

    name: str
    title: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Predictability:
    """How well each layer's weights are predicted, or its outputs kept.

    Args:
        name: as of :class:`LinesFigure`.
        title: plain text.
        results: of one network.
        measured: ``r2``, of the weights, or ``output_r2``.
    """

    name: str
    title: str
    results: tuple[Result, ...]
    measured: predictability.Measured


@dataclass(frozen=True)
class Shrinkage:
    """How far a network was compressed.

    Args:
        name: as of :class:`LinesFigure`.
        title: plain text.
        result: of one search.
    """

    name: str
    title: str
    result: Result


@dataclass(frozen=True)
class Learning:
    """How a network learned.

    Args:
        name: as of :class:`LinesFigure`.
        title: plain text.
        result: of one run.
    """

    name: str
    title: str
    result: Result


Figure = LinesFigure | Comparison | Benchmark | Predictability | Shrinkage | Learning


def make_figures(results: Sequence[Result]) -> list[Figure]:
    """Sort results into figures.

    Args:
        results: rows of any experiments, each run once.

    Raises:
        ValueError: no rows, or a row that lacks what its figure needs; the message names it.
    """
    if not results:
        raise ValueError("there are no rows to report: run an experiment first")
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_kind(result), []).append(result)
    order = (
        "filters",
        "predictability",
        "shrinkage",
        "learning",
        "lines",
        "comparison",
        "benchmark",
    )
    names: set[str] = set()
    figures = []
    for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1:])):
        found = groups[key]
        if key[0] == "predictability" and predictability.has_outputs(found):
            figures.append(
                _probed(key, _new_name((*key[1:], "outputs"), names), found, "output_r2")
            )
        if key[0] == "shrinkage":
            figures += [_shrunk(key, _new_name(key[1:], names), result) for result in found]
            continue
        if key[0] == "learning":
            figures += [_learned(key, _new_name(key[1:], names), result) for result in found]
            continue
        figures.append(_make(key, _new_name(key[1:], names), found))
    return figures


def slug(text: str) -> str:
    """A name that is safe as a file's and as an element's."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "figure"


def _kind(result: Result) -> tuple[str, ...]:
    experiment = result.experiment
    if experiment in BENCHMARKS:
        return ("benchmark", experiment)
    if "figure" in result.row:
        return ("filters", experiment)
    if "probe" in result.row:
        return ("predictability", experiment, str(entry(result.row, result.where, "variant")))
    if "shrink" in result.row:
        return ("shrinkage", experiment, str(entry(result.row, result.where, "variant")))
    if "curve" in result.row:
        return ("learning", experiment, str(entry(result.row, result.where, "variant")))
    if {"curve", "fraction"} & result.labels.keys():
        return ("lines", experiment)
    return ("comparison", experiment, str(entry(result.row, result.where, "dataset")))


def _make(key: tuple[str, ...], name: str, results: Sequence[Result]) -> Figure:
    kind, experiment, *rest = key
    if kind == "benchmark":
        what = "Single layers and networks" if experiment == "bench" else "Training steps"
        title = f"{what}: time against the dense network's"
        return Benchmark(name, title, tuple(results))
    if kind == "comparison":
        return Comparison(name, f"{experiment.capitalize()}: {rest[0]}", tuple(results))
    if kind == "predictability":
        return _probed(key, name, results, "r2")
    title = TITLES.get(experiment, f"{experiment}: ever fewer weights learned")
    if kind == "filters":
        lines = make_lines(_known_samples(results))
        shown = {name for line in lines for name in line.points}
        metrics = tuple(ShownMetric(n, title) for n, title in EXPLAINED.items() if n in shown)
        return LinesFigure(
            name, title, tuple(lines), metrics, SHARE_KNOWN, "network", _filters(results)
        )
    found = samples(results)
    if _is_one_mean(results):
        dataset = str(entry(results[0].row, results[0].where, "dataset"))
        return Comparison(name, f"{title}: {dataset}", tuple(results))
    lines = make_lines(found)
    metrics = [_metric(name) for name in _metrics(lines)]
    if experiment in LOSS_FIRST:
        metrics.sort(key=lambda metric: metric.name != "test_loss")
    return LinesFigure(name, title, tuple(lines), tuple(metrics), SHARE_LEARNED)


def _probed(
    key: tuple[str, ...], name: str, results: Sequence[Result], measured: predictability.Measured
) -> Predictability:
    title = f"{predictability.TITLES[measured]}: {key[2]}"
    return Predictability(name, title, tuple(results), measured)


def _shrunk(key: tuple[str, ...], name: str, result: Result) -> Shrinkage:
    """One search: searches of other seeds tried other sizes, so there is no mean of them."""
    shrinkage.limit(result)  # refuses a malformed row, before anything is printed or drawn
    tolerance = f"tolerance {shrinkage.tolerance(result):g}"
    labels = [in_words(name, str(value)) for name, value in result.labels.items()]
    seed = f"seed {entry(result.row, result.where, 'seed')}"
    apart = ", ".join([key[2], tolerance, seed, *labels])
    return Shrinkage(name, f"How small the network can be: {apart}", result)


def _learned(key: tuple[str, ...], name: str, result: Result) -> Learning:
    for check in (learning.table, learning.summary):  # before anything is printed or drawn
        check(result)
    dataset, seed = (entry(result.row, result.where, what) for what in ("dataset", "seed"))
    return Learning(name, f"{key[2]} on {dataset}, seed {seed}", result)


def _is_one_mean(results: Sequence[Result]) -> bool:
    """Whether labelled rows are one network's, which is no line yet, and can be compared."""
    return len({result.family for result in results}) == 1 and all(
        "train_seconds" in entry(result.row, result.where, "metrics") for result in results
    )


def _metric(name: str) -> ShownMetric:
    words = name.replace("_", " ")
    return (
        ShownMetric(name, f"{words}, nats", 3)
        if name == "test_loss"
        else ShownMetric(name, f"{words}, %")
    )


def _new_name(parts: Iterable[str], taken: set[str]) -> str:
    name = slug("-".join(parts))
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique)
    return unique


def _metrics(lines: Sequence[Line]) -> list[str]:
    """Those that say something of their own: one that always equals test_error is left out."""
    first = "test_error"
    names = sorted({name for line in lines for name in line.points} - {first})
    return [first, *(n for n in names if any(x.points.get(n) != x.points[first] for x in lines))]


def _known_samples(results: Sequence[Result]) -> list[Sample]:
    """Figure 1: how much of the filters' variance is predicted, by share of known weights."""
    found = []
    for result in results:
        where = f"{result.where}: the entry 'figure'"
        figure = check_figure(result.row["figure"], where)
        settings = {
            name: str(value)
            for name, value in result.labels.items()
            if name not in ("network", "curve", "fraction")
        }
        for item in figure["r2"]:
            fraction = number(item, where, "fraction")
            if not 0 < fraction <= 1:
                raise ValueError(f"{where}: fraction is {fraction:g}, a share of weights in (0, 1]")
            values = {name: 100 * number(item, where, name) for name in EXPLAINED if name in item}
            found.append(Sample(result, _network(result), fraction, settings, values))
    return found


def _filters(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Of each network, the filters of its first seed."""
    by_seed = sorted(results, key=lambda r: (_network(r), number(r.row, r.where, "seed")))
    found: dict[str, dict[str, Any]] = {}
    for result in by_seed:
        if result.row["figure"]["filters"]:
            found.setdefault(_network(result), result.row["figure"])
    return found


def _network(result: Result) -> str:
    labels = result.labels
    return str(labels.get("network", labels.get("curve", result.row.get("variant"))))
