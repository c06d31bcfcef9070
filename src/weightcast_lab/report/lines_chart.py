"""Curves -> a chart: a value in percent against a share of weights, as Vega-Lite (JSON data).

One line per curve with a symbol at each mean and a bar of one standard deviation to either side; a
reference, such as the dense network, is a level with its spread as a band.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from weightcast_lab.report.series import Line, ShownMetric
from weightcast_lab.report.theme import COLOURS, DASHES, INK, NEUTRAL, SHAPES, cycle, themed

LABEL_STEP = 16  # pixels from one name to the next
DATA = "points"  # the data set that a page filters
LEVELS, CURVES, NAMES = "levels", "curves", "names"  # layers that a page may leave out
PADDING = 10  # pixels between the axes' ends and what is drawn
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
MOST_TICKS = 6


@dataclass(frozen=True)
class Style:
    """How one curve is drawn, on charts and in keys; a level has no symbol."""

    colour: str
    dash: tuple[int, int]
    shape: str


def styles(lines: Iterable[Line]) -> dict[str, Style]:
    """One style per curve, in order; references are grey."""
    lines = list(lines)
    references = [line.curve for line in lines if line.is_reference]
    curves = list(dict.fromkeys(line.curve for line in lines))
    found, n = {}, 0
    for curve in curves:
        if curve in references:
            found[curve] = Style(NEUTRAL, DASHES[(len(found) - n) % len(DASHES)], "")
            continue
        dash = DASHES[n // len(COLOURS) % len(DASHES)]
        found[curve] = Style(COLOURS[n % len(COLOURS)], dash, SHAPES[n % len(SHAPES)])
        n += 1
    return found


def lines_chart(
    lines: Sequence[Line], metric: ShownMetric, x_title: str, looks: dict[str, Style]
) -> dict[str, Any]:
    """Draw lines.

    Args:
        lines: what may be shown; a page chooses among them by ``group``, their number.
        metric: what the vertical axis shows.
        x_title: of the horizontal axis, with its unit.
        looks: of the curves.

    Returns:
        A Vega-Lite specification as wide as its container, with the data of all lines.
    """
    values = chart_values(lines, metric)
    log = is_log([value["mean"] for value in values])
    colours = cycle(list(looks), [look.colour for look in looks.values()])
    colour = alt.Color("curve:N", scale=colours, legend=None)
    chart = alt.layer(
        _levels(looks, colour, log),
        _curves(looks, _x(values, x_title), colour, metric.title, log),
        _names(colour, log),
        data=alt.NamedData(DATA),
    ).properties(
        width="container",
        height=max(340, LABEL_STEP * len(looks) + 60),
        title=alt.Title(metric.title, anchor="end", offset=10),
        padding=4,
        description=f"{metric.title} against {x_title}; the numbers are in the table",
    )
    return themed(chart) | {"datasets": {DATA: values}}


def chart_values(lines: Sequence[Line], metric: ShownMetric) -> list[dict[str, Any]]:
    """One entry per mean: where it stands, how far it spreads, what to call it."""
    log = is_log([point.mean for line in lines for point in line.points.get(metric.name, ())])
    return [
        {
            "group": group,
            "curve": line.curve,
            "label": line.curve,
            "reference": line.is_reference,
            "share": 100 * point.fraction,
            "mean": point.mean,
            # A logarithmic axis has no room below zero: captions say which bars are cut.
            "low": 0.5 * point.mean if cut else point.mean - spread,
            "high": point.mean + spread,
            "text": cell(point.mean, point.spread, metric.digits),
            "n": len(point.values),
            "cut": cut,
        }
        for group, line in enumerate(lines)
        for point in line.points.get(metric.name, ())
        for spread in (point.spread or 0.0,)
        for cut in (log and spread > 0.5 * point.mean,)
    ]


def is_log(means: Sequence[float]) -> bool:
    """Whether the values are too far apart for a linear axis."""
    return min(means, default=0) > 0 and max(means) > 5 * min(means)


def cell(mean: float, spread: float | None, digits: int = 2) -> str:
    """A mean with its spread, as tables have it."""
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def percent(share: float) -> str:
    """A share in percent as text, such as 2.5 %."""
    return f"{share:.3g} %"


def _x(values: Sequence[dict[str, Any]], title: str) -> alt.X:
    shares = [value["share"] for value in values if not value["reference"]] or [100.0]
    low, high = min(shares) / 1.15, max(shares) * 1.15
    return alt.X(
        "share:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=_ticks(shares),
            labelExpr="datum.value + ' %'",
            labelOverlap="greedy",
            grid=False,
        ),
    )


def _ticks(shares: Sequence[float]) -> list[float]:
    """The shares themselves, or round numbers where they are many."""
    own = sorted({float(f"{share:.3g}") for share in shares})
    return own if len(own) <= MOST_TICKS else [t for t in TICKS if own[0] <= t <= own[-1]]


def _y(field: str, log: bool) -> alt.Y:
    # Neither nice nor zero: names are placed by the same two ends. A log scale knows no zero.
    kind = alt.Scale(type="log") if log else alt.Scale(type="linear", zero=False)
    kind.nice, kind.padding = False, PADDING
    axis = alt.Axis(tickCount=6, format=".4~g", orient="right", domain=False, ticks=False)
    return alt.Y(field, title=None, scale=kind, axis=axis)


def _levels(looks: dict[str, Style], colour: alt.Color, log: bool) -> Any:
    """References: a level across the chart, and its spread."""
    ends: dict[str, Any] = {"x": alt.value(0), "x2": alt.value(alt.expr("width")), "color": colour}
    band = alt.Chart().mark_rect(opacity=0.18).encode(**ends, y=_y("low:Q", log), y2="high:Q")
    mean = alt.Chart().mark_rule(strokeWidth=1.5)
    mean = mean.encode(**ends, y=_y("mean:Q", log), strokeDash=_dash(looks))
    return _layer(LEVELS, band, mean).transform_filter("datum.reference")


def _curves(looks: dict[str, Style], x: alt.X, colour: alt.Color, title: str, log: bool) -> Any:
    """Lines through the means, bars of one standard deviation, a symbol at each mean."""
    names = list(looks)
    shape = cycle(names, [look.shape or "circle" for look in looks.values()])
    place: dict[str, Any] = {"x": x, "color": colour}
    tooltip = [
        alt.Tooltip("label:N", title="curve"),
        alt.Tooltip("share:Q", title="share, %", format=".3~g"),
        alt.Tooltip("text:N", title=title),
        alt.Tooltip("n:Q", title="runs"),
    ]
    line = (
        alt.Chart()
        .mark_line(strokeWidth=2)
        .encode(
            **place,
            y=_y("mean:Q", log),
            strokeDash=_dash(looks),
            detail="group:N",
        )
    )
    bar = alt.Chart().mark_rule(strokeWidth=1.25, opacity=0.7)
    symbol = (
        alt.Chart()
        .mark_point(filled=True, size=52, opacity=1)
        .encode(
            **place,
            y=_y("mean:Q", log),
            shape=alt.Shape("curve:N", scale=shape, legend=None),
            tooltip=tooltip,
        )
    )
    bar = bar.encode(**place, y=_y("low:Q", log), y2="high:Q")
    return _layer(CURVES, line, bar, symbol).transform_filter("!datum.reference")


def _names(colour: alt.Color, log: bool) -> Any:
    """The curves' names to the left, each as near to its line's start as the others let it.

    Going down, a name stands at its line's start or one step below the name above, whichever is
    lower: a running maximum. Names that this pushes out of the chart move up again.
    """
    value = "log(datum.{})" if log else "datum.{}"
    low, mean, high = (value.format(name) for name in ("lowest", "mean", "highest"))
    share = f"({high} - {mean}) / ({high} - {low})"

    at = alt.value(alt.expr("datum.at"))
    leader = (
        alt.Chart()
        .mark_rule(strokeWidth=1, opacity=0.6)
        .encode(
            x=alt.value(alt.expr("datum.reference ? 0 : scale('x', datum.share) - 6")),
            y=alt.value(alt.expr("scale('y', datum.mean)")),
            x2=alt.value(-14),
            y2=at,
            color=colour,
        )
    )
    name = alt.Chart().mark_text(align="right", baseline="middle", fontSize=12, color=INK, dx=-4)
    name = name.encode(x=alt.value(-14), y=at, text="label:N")
    return (
        _layer(NAMES, leader, name)
        .transform_joinaggregate(lowest="min(low)", highest="max(high)")
        .transform_joinaggregate(first="min(share)", groupby=["group"])
        .transform_filter("datum.share === datum.first")
        .transform_calculate(
            end=f"datum.highest > datum.lowest ? {PADDING} + {share} * (height - {2 * PADDING})"
            " : height / 2"
        )
        .transform_window(i="row_number()", sort=[alt.SortField("end"), alt.SortField("group")])
        .transform_joinaggregate(names="count()")
        .transform_calculate(slack=f"datum.end - {LABEL_STEP} * datum.i")
        .transform_window(pushed="max(slack)", frame=[None, 0], sort=[alt.SortField("i")])
        .transform_calculate(
            at=f"min(datum.pushed + {LABEL_STEP} * datum.i,"
            f" height + {LABEL_STEP} * (datum.i - datum.names))"
        )
    )


def _dash(looks: dict[str, Style]) -> alt.StrokeDash:
    scale = cycle(list(looks), [list(look.dash) for look in looks.values()])
    return alt.StrokeDash("curve:N", scale=scale, legend=None)


def _layer(name: str, *charts: alt.Chart) -> Any:
    return alt.layer(*charts).properties(name=name)
