"""How charts look: fonts, inks, colours, marks; the same on a page and in a picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import altair as alt

# Named, since the width of labels is measured before they are part of the page.
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'

# A page's charts are drawn in its ink, so that they follow it into dark mode.
INK = "currentColor"
LIGHT_INK, LIGHT_PAPER = "#1c1e21", "#ffffff"

NEUTRAL = "#888888"
# At least 3.5 : 1 against white and against the dark page, and told apart by colour-blind readers
# with the help of shapes and dashes.
COLOURS = (
    "#d55e00",
    "#2f86d1",
    "#159570",
    "#b869a8",
    "#b07d00",
    "#8a63d2",
    "#0f93ab",
    "#e0507a",
)
DASHES = ((1, 0), (7, 3), (2, 3))
CONFIG = {
    "background": "transparent",
    "font": FONT,
    "autosize": "fit-x",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": INK, "labelFontSize": 13},
    "title": {
        "color": INK,
        "subtitleColor": INK,
        "anchor": "start",
        "fontSize": 13,
        "fontWeight": "normal",
    },
}
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def cycle(names: Sequence[str], values: Sequence[Any]) -> alt.Scale:
    """Give each name a value, beginning again where there are more names."""
    return alt.Scale(
        domain=list(names), range=list(itertools.islice(itertools.cycle(values), len(names)))
    )


def themed(chart: alt.LayerChart | alt.FacetChart) -> dict[str, Any]:
    """A chart as a Vega-Lite specification in the page's ink, as wide as its container."""
    spec = chart.to_dict()
    return spec | {"config": spec.get("config", {}) | CONFIG}


def on_paper(spec: dict[str, Any], width: int) -> dict[str, Any]:
    """The same chart for a picture: dark ink on white, of a fixed width in pixels."""
    paper = json.loads(json.dumps(spec).replace(INK, LIGHT_INK))
    paper["width"] = width
    paper["config"] |= {"background": LIGHT_PAPER, "autosize": "pad"}
    paper["padding"] = 16
    return paper
