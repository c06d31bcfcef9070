"""Rows and filters -> one self-contained HTML page, readable offline, on a phone, in the dark."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import vl_convert

from weightcast.report.charts import error_chart
from weightcast.report.filters import filter_images
from weightcast.report.summary import (
    HEADINGS,
    Row,
    Summary,
    dataset_of,
    spread_note,
    summarise,
)

PAPER = "https://arxiv.org/abs/1306.0543"

# The browser itself then refuses whatever a page that claims to be self-contained would load.
# Vega compiles its expressions, hence unsafe-eval.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)

DRAW = """{
const charts = JSON.parse(document.getElementById("charts").textContent);
for (const [id, spec] of Object.entries(charts)) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  vegaEmbed("#" + id, spec, {
    renderer: "svg", actions: false, tooltip: {theme: dark ? "dark" : "light"},
  });
}
}"""


def write_page(rows: Sequence[Row], figure1: dict[str, Any] | None, path: str | Path) -> Path:
    """Write the page; a page that is already there is replaced in one step, or kept whole.

    Args:
        rows: result rows of one experiment on one data set.
        figure1: filters and how well they are predicted; None leaves the figure out.
        path: of the page; missing folders are made.

    Returns:
        The path.

    Raises:
        ValueError: rows or filters that cannot be drawn.
    """
    return write_text(path, render_page(rows, figure1))


def write_text(path: str | Path, text: str) -> Path:
    """Write a file whole or not at all; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def render_page(rows: Sequence[Row], figure1: dict[str, Any] | None = None) -> str:
    """The page as text; arguments and errors as in :func:`write_page`."""
    summaries = summarise(rows)
    title = f"Learn a few weights, predict the rest: {dataset_of(rows)}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        _introduction(rows),
        "<h2>Error and size</h2>",
        _table(summaries),
        _precision(rows, summaries),
        _descriptions(summaries),
        "<h2>Test error against learned weights</h2>",
        "<p>Each symbol is the mean over one network's runs, the upright line one standard "
        "deviation to either side, each dash a single run. Further left, fewer weights are "
        "learned; further down, fewer images are mistaken. The axis of errors does not start at "
        "zero.</p>",
        '<div class="chart" id="error-chart" role="img" '
        'aria-label="Test error against learned weights; the numbers are in the table"></div>',
        *([] if figure1 is None else _figure1(figure1)),
        _footer(rows[0]),
    ]
    style = resources.files("weightcast.report").joinpath("page.css").read_text(encoding="utf-8")
    charts = _json_for_script({"error-chart": error_chart(summaries)})
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *sections,
            f"<script>{_vega()}</script>",
            f'<script type="application/json" id="charts">{charts}</script>',
            f"<script>{DRAW}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _introduction(rows: Sequence[Row]) -> str:
    counts = rows[0]["counts"]
    images = ""
    if {"train_images", "test_images"} <= counts.keys():
        images = (
            f" on {counts['train_images']:,} images and tested once, at the end, on "
            f"{counts['test_images']:,} others"
        )
    return (
        "<p>Of a predicted layer's weights only a few are learned; a fixed dictionary, chosen "
        "before training, gives the rest "
        f'(<a href="{PAPER}">Denil et al. 2013</a>). '
        f"All networks below were trained in the same way{escape(images)}.</p>"
    )


def _precision(rows: Sequence[Row], summaries: Sequence[Summary]) -> str:
    """How far a test set of this size can be trusted, whatever the seed."""
    n_images = rows[0]["counts"].get("test_images")
    share = min(summary.mean for summary in summaries) / 100
    if not n_images or not 0 < share < 1:
        return ""
    points = 100 * math.sqrt(share * (1 - share) / n_images)
    return (
        f"<p>Counted on {n_images:,} images, an error of {100 * share:.1f} % is itself uncertain "
        f"by {points:.1f} points (one standard error), whatever the seed; all networks met the "
        "same images.</p>"
    )


def _table(summaries: Sequence[Summary]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in HEADINGS)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td data-heading="{escape(heading)}">{escape(cell)}</td>'
            for heading, cell in zip(HEADINGS[1:], cells, strict=True)
        )
        + "</tr>"
        for name, *cells in (summary.cells() for summary in summaries)
    )
    return (
        f'<table class="stacked"><caption>Test error: {escape(spread_note(summaries))}.</caption>'
        f"\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    )


def _descriptions(summaries: Iterable[Summary]) -> str:
    items = "\n".join(
        f"<dt>{escape(summary.variant)}</dt><dd>{escape(summary.description)}</dd>"
        for summary in summaries
        if summary.description
    )
    return f"<dl>\n{items}\n</dl>" if items else ""


def _figure1(figure1: dict[str, Any]) -> list[str]:
    missing = [key for key in ("shape", "filters", "r2", "description") if key not in figure1]
    if missing:
        raise ValueError(f"the data of figure 1 has no {', '.join(map(repr, missing))}")
    figures = "\n".join(_filter(item, figure1["shape"]) for item in figure1["filters"])
    shares = "\n".join(
        f'<tr><th scope="row">{row["n_atoms"]:,} ({100 * row["fraction"]:g} %)</th>'
        f"<td>{100 * row['r2']:.0f} %</td></tr>"
        for row in figure1["r2"]
    )
    return [
        "<h2>True, known and predicted filters</h2>",
        *(f"<p>{escape(text)}</p>" for text in figure1["description"]),
        f'<div class="filters">\n{figures}\n</div>',
        '<table class="narrow"><caption>All filters of the layer together.</caption>'
        '<thead><tr><th scope="col">known weights</th>'
        '<th scope="col">variance explained</th></tr></thead>'
        f"<tbody>{shares}</tbody></table>",
    ]


def _filter(item: dict[str, Any], shape: Sequence[int]) -> str:
    images = filter_images(item["true"], item["known"], item["predicted"], shape)
    unit = escape(str(item["unit"]))
    triple = "".join(
        f'<div><span>{name}</span><img src="{uri}" alt="{name} filter of unit {unit}"></div>'
        for name, uri in zip(("true", "known", "predicted"), images, strict=True)
    )
    return (
        f'<figure><div class="triple">{triple}</div>'
        f"<figcaption>unit {unit}: {100 * item['r2']:.0f} % of variance explained</figcaption>"
        "</figure>"
    )


def _footer(row: Row) -> str:
    versions = row.get("versions", {})
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        "<footer>Drawn from result rows alone; this file loads nothing from the network."
        f"{' Made with ' + escape(made_with) + '.' if made_with else ''}</footer>"
    )


def _json_for_script(data: Any) -> str:
    """JSON that no string inside can break out of its script element with."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, one copy for all charts of a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )
