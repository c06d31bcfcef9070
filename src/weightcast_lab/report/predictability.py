"""How predictable each layer is -> a chart and a table: dictionaries between floor and ceiling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from weightcast_lab.report.entries import entry, is_number, number
from weightcast_lab.report.results import Result
from weightcast_lab.report.theme import COLOURS, INK, NEUTRAL, SHAPES, cycle, themed

FLOOR, CEILING = "floor", "ceiling"
LINE = 22  # pixels from one layer to the next
LOWEST = -100.0  # per cent; what is lower is drawn there, and named
MOST_NAMED = 4

Measured = Literal["output_r2", "r2"]

TITLES: dict[Measured, str] = {
    "output_r2": "How much of each layer's output is kept",
    "r2": "How predictable each layer's weights are",
}
AXES: dict[Measured, str] = {
    "output_r2": "variance of the output kept, %",
    "r2": "variance of the weights predicted, %",
}
READING: dict[Measured, str] = {
    "output_r2": "This is what matters for the network: the share of the variance of a layer's "
    "output that is left when its weights are fitted to it, as weightcast compress does. It is "
    "often far above the weights' own, since inputs vary in few directions.",
    "r2": "Of every filter (a unit's weights) a share is known, and all of it is predicted from "
    "that. Where these numbers are low, the outputs may still be kept well.",
}
SYMBOLS = (
    "How to read it: a line is one layer with a share of its weights known, the grey bar what can "
    "be reached at all, from as many random atoms (left end) to singular vectors of the weights "
    "(right end). A symbol is one dictionary: the further right, the better."
)


def has_outputs(results: Sequence[Result]) -> bool:
    """Whether any row says what is kept of a layer's output."""
    return any(
        item.get("output_r2") is not None
        for result in results
        for item in entry(result.row, result.where, "probe", "rows")
    )


def values(results: Sequence[Result], measured: Measured) -> list[dict[str, Any]]:
    """What was measured: one entry per layer, share and dictionary, means over rows (seeds).

    Raises:
        ValueError: a row that lacks what it needs.
    """
    found: dict[tuple[str, float, str], list[float]] = {}
    for result in results:
        for item in entry(result.row, result.where, "probe", "rows"):
            where = f"{result.where}: the entry 'probe'"
            key = (
                str(entry(item, where, "layer")),
                number(item, where, "fraction"),
                str(entry(item, where, "dictionary")),
            )
            r2 = entry(item, where, "r2") if measured == "r2" else item.get(measured)
            if r2 is not None:  # None: it cannot be built for this layer
                if not is_number(r2):
                    raise ValueError(f"{where}: {measured} is {r2!r}, not a finite number")
                found.setdefault(key, []).append(r2)
    if not found:
        raise ValueError("nothing was predicted in these rows: there is nothing to draw")
    return [
        {
            "layer": layer,
            "share": f"{100 * fraction:.3g} %",
            "line": f"{layer}, {100 * fraction:.3g} %",
            "dictionary": dictionary,
            "value": 100 * statistics.fmean(numbers),
            "shown": max(LOWEST, 100 * statistics.fmean(numbers)),
        }
        for (layer, fraction, dictionary), numbers in found.items()
    ]


def table(results: Sequence[Result], measured: Measured) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: layers and shares down, dictionaries across, per cent of variance."""
    found = values(results, measured)
    names = dictionaries(found)
    shown = [FLOOR, *names, CEILING]
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for value in found:
        line = cells.setdefault((value["layer"], value["share"]), {})
        line[value["dictionary"]] = value["value"]
    body = [
        [*line, *(f"{own[name]:.1f}" if name in own else "" for name in shown)]
        for line, own in cells.items()
    ]
    return ["layer", "known", *shown], body


def summary(results: Sequence[Result], measured: Measured) -> str:
    """The best dictionary's numbers in a sentence for each share, and what the chart cut off."""
    found = values(results, measured)
    best: dict[str, dict[str, float]] = {}
    for value in found:
        if value["dictionary"] in dictionaries(found):
            own = best.setdefault(value["share"], {})
            own[value["layer"]] = max(own.get(value["layer"], -math.inf), value["value"])
    said = []
    for share, layers in best.items():
        low, middle, high = (
            min(layers.values()),
            statistics.median(layers.values()),
            max(layers.values()),
        )
        by_layer = f"{low:.1f} to {high:.1f} % by layer, median {middle:.1f} %"
        reached = f"{high:.1f} %" if len(layers) == 1 else by_layer
        said.append(f"With {share} known, the best dictionary reaches {reached}.")
    return " ".join([*said, *_cut(found)])


def _cut(found: Sequence[dict[str, Any]]) -> list[str]:
    """What values below 0 mean, and those that are too low to be drawn in their place."""
    if all(value["value"] >= 0 for value in found):
        return []
    cut = [
        f"{value['line']}, {value['dictionary']}: {value['value']:.1f} %"
        for value in found
        if value["value"] < LOWEST and value["dictionary"] in dictionaries(found)
    ]
    more = f" and {len(cut) - MOST_NAMED} more" if len(cut) > MOST_NAMED else ""
    named = f" Drawn at {LOWEST:.0f} % though lower: {'; '.join(cut[:MOST_NAMED])}{more}."
    return ["Below 0 a prediction is worse than the mean." + (named if cut else "")]


def chart(results: Sequence[Result], measured: Measured) -> dict[str, Any]:
    """A bar from floor to ceiling for each layer and share, a symbol for each dictionary.

    Returns:
        A Vega-Lite specification as wide as its container.
    """
    found = values(results, measured)
    names, lines = dictionaries(found), list(dict.fromkeys(value["line"] for value in found))
    symbols = [value for value in found if value["dictionary"] in names]
    lowest = min(0, *(20 * math.floor(value["shown"] / 20) for value in found))
    y = alt.Y("line:N", sort=lines, title=None, axis=alt.Axis(labelLimit=260, ticks=False))
    scale = alt.Scale(domain=[lowest, 100], nice=False)
    x = {"title": AXES[measured], "scale": scale}
    bars = (
        alt.Chart(alt.Data(values=_bars(found)))
        .mark_bar(size=9, opacity=0.35, color=NEUTRAL)
        .encode(y=y, x=alt.X("floor:Q", **x), x2="ceiling:Q")
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=INK, opacity=0.6)
    return themed(
        alt.layer(
            zero.encode(x=alt.X("zero:Q", **x)), bars, _points(symbols, names, x, y)
        ).properties(
            width="container",
            height=LINE * len(lines),
            description=f"{AXES[measured]}, by layer; the numbers are in the table",
        )
    )


def _points(
    symbols: Sequence[dict[str, Any]], names: Sequence[str], x: dict[str, Any], y: alt.Y
) -> alt.Chart:
    """A symbol for each dictionary of each line."""
    key = alt.Legend(title=None, orient="bottom", symbolOpacity=1)
    return (
        alt.Chart(alt.Data(values=list(symbols)))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            y=y,
            x=alt.X("shown:Q", **x),
            color=alt.Color("dictionary:N", sort=names, scale=cycle(names, COLOURS)).legend(key),
            shape=alt.Shape("dictionary:N", sort=names, scale=cycle(names, SHAPES)).legend(key),
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("share:N", title="known"),
                alt.Tooltip("dictionary:N"),
                alt.Tooltip("value:Q", title="%", format=".1f"),
            ],
        )
    )


def _bars(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the floor to the ceiling of every line."""
    ends: dict[str, dict[str, Any]] = {}
    for value in found:
        if value["dictionary"] in (FLOOR, CEILING):
            line = ends.setdefault(value["line"], {"line": value["line"], FLOOR: 0.0, CEILING: 0.0})
            line[value["dictionary"]] = value["shown"]
    return list(ends.values())


def dictionaries(found: Sequence[dict[str, Any]]) -> list[str]:
    """The names of what was measured between the floor and the ceiling."""
    names = dict.fromkeys(value["dictionary"] for value in found)
    return [name for name in names if name not in (FLOOR, CEILING)]
