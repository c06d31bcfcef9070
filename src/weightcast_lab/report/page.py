"""The demo's page: rows and filters of one experiment, readable offline and on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from weightcast.files import write_text
from weightcast_lab.report import comparison, pictures
from weightcast_lab.report.charts import error_chart
from weightcast_lab.report.document import footer, render
from weightcast_lab.report.entries import Row
from weightcast_lab.report.summary import dataset_of, summarise

PAPER = "https://arxiv.org/abs/1306.0543"

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


def render_page(rows: Sequence[Row], figure1: dict[str, Any] | None = None) -> str:
    """The page as text; arguments and errors as in :func:`write_page`."""
    summaries = summarise(rows)
    title = f"Learn a few weights, predict the rest: {dataset_of(rows)}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        _introduction(rows),
        "<h2>Error and size</h2>",
        comparison.table(summaries),
        comparison.precision(rows, summaries),
        comparison.descriptions(summaries),
        "<h2>Test error against learned weights</h2>",
        comparison.reading(summaries),
        '<div class="chart" id="error-chart" role="img" '
        'aria-label="Test error against learned weights; the numbers are in the table"></div>',
        *([] if figure1 is None else _figure1(figure1)),
        footer(rows[:1]),
    ]
    return render(title, sections, {"error-chart": error_chart(summaries)}, DRAW)


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


def _figure1(figure1: dict[str, Any]) -> list[str]:
    figure = pictures.check_figure(figure1)
    return [
        "<h2>True, known and predicted filters</h2>",
        pictures.paragraphs(figure),
        pictures.pictures(figure),
        pictures.shares(figure),
    ]
