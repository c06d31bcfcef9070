"""Rows -> tables for a terminal: a line for each curve, a cell for each fraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightcast.serialization import aligned
from weightcast_lab.report import learning, lines_chart, predictability, shrinkage
from weightcast_lab.report.entries import Row, number
from weightcast_lab.report.figures import (
    Benchmark,
    Comparison,
    Figure,
    Learning,
    LinesFigure,
    Predictability,
    Shrinkage,
    make_figures,
)
from weightcast_lab.report.results import Result, distinct, located
from weightcast_lab.report.series import ShownMetric
from weightcast_lab.report.summary import text_table


def tables(rows: Sequence[Row]) -> str:
    """Every figure's numbers as aligned text: mean ± standard deviation (number of runs).

    Args:
        rows: result rows of any experiments.

    Raises:
        ValueError: no rows, rows that lack what a figure needs, or conflicting ones.
    """
    return figure_tables(make_figures(distinct(located(rows))))


def figure_tables(figures: Sequence[Figure]) -> str:
    """The same, of figures."""
    return "\n\n".join("\n".join(_section(figure)) for figure in figures)


def lines_table(figure: LinesFigure, metric: ShownMetric) -> tuple[list[str], list[list[str]]]:
    """The numbers behind a chart.

    Returns:
        Headings (curve, settings that vary, fractions) and one line of cells per line of the
        figure, empty where nothing was measured.
    """
    fractions = sorted(
        {p.fraction for line in figure.lines for p in line.points.get(metric.name, ())}
    )
    settings = list(figure.settings)
    head = [figure.unit, *(name.replace("_", " ") for name in settings), *map(percent, fractions)]
    body = []
    for line in figure.lines:
        points = {point.fraction: point for point in line.points.get(metric.name, ())}
        cells = [
            f"{lines_chart.cell(p.mean, p.spread, metric.digits)} ({len(p.values)})" if p else ""
            for p in map(points.get, fractions)
        ]
        body.append([line.curve, *(line.settings.get(name, "any") for name in settings), *cells])
    return head, body


def benchmark_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Median ratio to the dense network's time, its range over repetitions, and the time.

    Raises:
        ValueError: a row without these numbers.
    """
    head = ["variant", "measured with", "ratio", "range", "ms", "n"]
    body = []
    for result in results:

        def value(name: str, result: Result = result) -> float:
            return number(result.row, result.where, "metrics", name)

        body.append(
            [
                str(result.row["variant"]),
                _conditions(result.row["config"]),
                f"{value('ratio_median'):.2f}",
                f"{value('ratio_min'):.2f} to {value('ratio_max'):.2f}",
                f"{value('milliseconds'):.2f}",
                f"{value('n'):.0f}",
            ]
        )
    return head, body


def percent(fraction: float) -> str:
    """A fraction as a heading, such as 2.5 %."""
    return lines_chart.percent(100 * fraction)


def _section(figure: Figure) -> list[str]:
    if isinstance(figure, Comparison):
        rows, where = zip(*((result.row, result.where) for result in figure.results), strict=True)
        return [figure.title, text_table(rows, where)]
    if isinstance(figure, Benchmark):
        head, body = benchmark_table(figure.results)
        return [figure.title, aligned([head, *body], n_names=2)]
    if isinstance(figure, Predictability):
        head, body = predictability.table(figure.results, figure.measured)
        return [figure.title, aligned([head, *body], n_names=2)]
    if isinstance(figure, Shrinkage):
        head, body = shrinkage.table(figure.result)
        return [figure.title, aligned([head, *body], n_names=1)]
    if isinstance(figure, Learning):
        head, body = learning.table(figure.result)
        return [figure.title, learning.summary(figure.result), aligned([head, *body])]
    n_names = 1 + len(figure.settings)
    blocks = []
    for metric in figure.metrics:
        head, body = lines_table(figure, metric)
        note = f"{metric.title}: mean ± standard deviation (runs)"
        blocks += [note, aligned([head, *body], n_names)]
    return [figure.title, *blocks]


def _conditions(config: dict[str, Any]) -> str:
    return ", ".join(
        name if value is True else f"not {name}" if value is False else f"{name} {value}"
        for name, value in config.items()
        if name in _CONDITIONS
    )


_CONDITIONS = ("threads", "device", "fused", "batch")
"""Of a configuration; the rest is in the variant's name."""
