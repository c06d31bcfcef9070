"""Result rows -> a folder with one page, and an SVG and a PNG of each chart."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from weightcast.files import check_place, user_path, write_files
from weightcast_lab.report import drawings
from weightcast_lab.report.captions import caption
from weightcast_lab.report.document import footer, packaged, render
from weightcast_lab.report.entries import Row
from weightcast_lab.report.figures import Figure, LinesFigure, make_figures
from weightcast_lab.report.lines_chart import DATA, chart_values
from weightcast_lab.report.page import PAPER
from weightcast_lab.report.results import Result, distinct, located
from weightcast_lab.report.sections import chart, section
from weightcast_lab.report.series import in_words

PAGE = "index.html"
SUBTITLE = 100  # letters in a line above a picture, as wide as its chart


def write_report(rows: Sequence[Row], folder: str | Path, images: bool = True) -> Path:
    """Write ``index.html``, and ``NAME.svg`` and ``NAME.png`` of each chart.

    Args:
        rows: result rows of any experiments; a run that appears twice counts once.
        folder: for the files; it is made where it is missing, other files in it are kept.
        images: whether to write the SVG and PNG files.

    Returns:
        The page's path.

    Raises:
        ValueError: no rows, rows that lack what their figure needs, or conflicting ones; nothing
            is written then.
    """
    results = distinct(located(rows))
    return write_figures(make_figures(results), results, folder, images)


def write_figures(
    figures: Sequence[Figure], results: Sequence[Result], folder: str | Path, pictures: bool
) -> Path:
    """The same, from figures that are made already, and the results they are made of."""
    folder = user_path(folder)
    check_place(folder, folder=True)
    charts = {f.name: drawn for f in figures if (drawn := chart(f)) is not None}
    files: dict[str, bytes] = {}
    for figure in figures if pictures else ():
        if figure.name in charts:
            spec = picture(figure, charts[figure.name])
            files[f"{figure.name}.svg"] = drawings.svg(spec)
            files[f"{figure.name}.png"] = drawings.png(spec)
        if isinstance(figure, LinesFigure) and figure.filters:
            svg = drawings.filters_svg(figure.filters)
            files[f"{figure.name}-filters.svg"] = svg.encode()
            files[f"{figure.name}-filters.png"] = drawings.rasterised(svg)
    text = render_report(figures, results, charts)
    write_files(folder, files | {PAGE: text.encode()})
    return folder / PAGE


def render_report(
    figures: Sequence[Figure], results: Sequence[Result], charts: dict[str, Any]
) -> str:
    """The page as text."""
    title = "Learn a few weights, predict the rest: results"
    links = "".join(
        f'<li><a href="#{figure.name}">{escape(_short(figure))}</a></li>' for figure in figures
    )
    sections = [
        f"<h1>{escape(title)}</h1>",
        "<p>Of a predicted layer's weights only a few are learned; a fixed dictionary, chosen "
        f'before training, gives the rest (<a href="{PAPER}">Denil et al. 2013</a>). Every number '
        f"below is drawn from {len(results):,} result row{'s' * (len(results) != 1)}.</p>",
        f'<nav aria-label="Figures"><ul>{links}</ul></nav>' if len(figures) > 1 else "",
        *map(section, figures),
        footer([result.row for result in results]),
    ]
    return render(title, sections, charts, packaged("report.js"), "report.css")


def _short(figure: Figure) -> str:
    """A title up to its colon; comparisons differ only behind it."""
    return figure.title.partition(":")[0] if isinstance(figure, LinesFigure) else figure.title


def picture(figure: Figure, drawn: dict[str, Any]) -> dict[str, Any]:
    """The chart of a picture: the first metric, in the setting that the page shows first."""
    spec = next(iter(drawn["specs"].values()))
    if not isinstance(figure, LinesFigure):
        return spec | {"title": figure.title}
    metric, shown = figure.metrics[0], figure.shown
    groups = {i for i, line in enumerate(figure.lines) if line.fits(shown)}
    drawn_values = [v for v in chart_values(figure.lines, metric) if v["group"] in groups]
    settings = [in_words(name, value) for name, value in shown.items()]
    note = f"{metric.title}. {caption(drawn_values, figure.x_title)}"
    return spec | {
        "datasets": {DATA: drawn_values},
        "title": {
            "text": figure.title,
            "subtitle": [
                ", ".join(filter(None, [figure.common, *settings])),
                *wrap(note, SUBTITLE, break_on_hyphens=False),
            ],
            "anchor": "start",
            "offset": 16,
            "fontSize": 15,
            "fontWeight": "bold",
            "subtitleFontSize": 13,
        },
    }
