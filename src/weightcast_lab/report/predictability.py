"""How predictable each layer is -> a chart and a table: dictionaries between floor and ceiling."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import altair as alt

from weightcast_lab.report.entries import entry, is_number, number
from weightcast_lab.report.results import Result
from weightcast_lab.report.theme import COLOURS, NEUTRAL, SHAPES, cycle, themed

FLOOR, CEILING = "floor", "ceiling"
LINE = 22  # pixels from one layer to the next
READING = (
    "How to read it: a line is one layer with a share of its weights known, the grey bar what can "
    "be predicted at all, from as many random atoms (left end) to the best there are (right end). "
    "A symbol is one dictionary: the further right, the more of the weights' variance it predicts."
)


def values(results: Sequence[Result]) -> list[dict[str, Any]]:
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
            r2 = entry(item, where, "r2")
            if r2 is not None:  # None: it cannot be built for this layer
                if not is_number(r2):
                    raise ValueError(f"{where}: r2 is {r2!r}, not a finite number")
                found.setdefault(key, []).append(r2)
    if not found:
        raise ValueError("nothing was predicted in these rows: there is nothing to draw")
    return [
        {
            "layer": layer,
            "share": f"{100 * fraction:.3g} %",
            "line": f"{layer}, {100 * fraction:.3g} %",
            "dictionary": dictionary,
            "r2": statistics.fmean(numbers),
            "n": len(numbers),
        }
        for (layer, fraction, dictionary), numbers in found.items()
    ]


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: layers and shares down, dictionaries across, per cent of variance."""
    found = values(results)
    names = _dictionaries(found)
    shown = [FLOOR, *names, CEILING]
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for value in found:
        line = cells.setdefault((value["layer"], value["share"]), {})
        line[value["dictionary"]] = 100 * value["r2"]
    body = [
        [*line, *(f"{own[name]:.1f}" if name in own else "" for name in shown)]
        for line, own in cells.items()
    ]
    return ["layer", "known", *shown], body


def chart(results: Sequence[Result]) -> dict[str, Any]:
    """A bar from floor to ceiling for each layer and share, a symbol for each dictionary.

    Returns:
        A Vega-Lite specification as wide as its container.
    """
    found = values(results)
    names, lines = _dictionaries(found), list(dict.fromkeys(value["line"] for value in found))
    symbols = [
        {**value, "shown": 100 * max(0.0, value["r2"])}
        for value in found
        if value["dictionary"] in names
    ]
    y = alt.Y("line:N", sort=lines, title=None, axis=alt.Axis(labelLimit=260, ticks=False))
    scale = alt.Scale(domain=[0, 100], nice=False)
    x = {"title": "variance of the weights predicted, %", "scale": scale}
    bars = (
        alt.Chart(alt.Data(values=_bars(found)))
        .mark_bar(size=9, opacity=0.35, color=NEUTRAL)
        .encode(y=y, x=alt.X("floor:Q", **x), x2="ceiling:Q")
    )
    points = (
        alt.Chart(alt.Data(values=symbols))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            y=y,
            x=alt.X("shown:Q", **x),
            color=alt.Color("dictionary:N", sort=names, scale=cycle(names, COLOURS)).legend(
                title=None, orient="bottom", symbolOpacity=1
            ),
            shape=alt.Shape("dictionary:N", sort=names, scale=cycle(names, SHAPES)).legend(
                title=None, orient="bottom"
            ),
            tooltip=[
                alt.Tooltip("layer:N"),
                alt.Tooltip("share:N", title="known"),
                alt.Tooltip("dictionary:N"),
                alt.Tooltip("r2:Q", format=".3f"),
            ],
        )
    )
    return themed(
        alt.layer(bars, points).properties(
            width="container",
            height=LINE * len(lines),
            description="variance of the weights predicted, by layer; the numbers are in the table",
        )
    )


def _bars(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the floor to the ceiling of every line."""
    ends: dict[str, dict[str, Any]] = {}
    for value in found:
        if value["dictionary"] in (FLOOR, CEILING):
            line = ends.setdefault(value["line"], {"line": value["line"], FLOOR: 0.0, CEILING: 0.0})
            line[value["dictionary"]] = 100 * max(0.0, value["r2"])
    return list(ends.values())


def _dictionaries(found: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(value["dictionary"] for value in found)
    return [name for name in names if name not in (FLOOR, CEILING)]
