"""Networks compared side by side, as sections of a page: table, precision, descriptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from weightcast_lab.report import glossary
from weightcast_lab.report.entries import Row
from weightcast_lab.report.summary import HEADINGS, Summary, spread_note


def reading(summaries: Sequence[Summary]) -> str:
    """What the chart shows."""
    if len(summaries) == 1:
        runs = len(summaries[0].test_errors)
        if runs == 1:
            return "<p>The bar is the test error of a single run, so no spread is known.</p>"
        return (
            f"<p>The bar is the mean test error over {runs} runs, the line across its end one "
            "standard deviation to either side, each dash a single run.</p>"
        )
    return (
        "<p>Each symbol is the mean over one network's runs, the upright line one standard "
        "deviation to either side, each dash a single run. Further left, fewer weights are "
        "learned; further down, fewer examples are mistaken. The axis of errors does not start at "
        "zero.</p>"
    )


def table(summaries: Sequence[Summary]) -> str:
    """A table that stacks its cells where the screen is narrow."""
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


def precision(rows: Sequence[Row], summaries: Sequence[Summary]) -> str:
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


def descriptions(summaries: Iterable[Summary]) -> str:
    """What each network is, where the rows say so; else what its name is made of."""
    summaries = list(summaries)
    items = "\n".join(
        f"<dt>{escape(summary.variant)}</dt><dd>{escape(summary.description)}</dd>"
        for summary in summaries
        if summary.description
    )
    named = glossary.sentences(s.variant for s in summaries if not s.description)
    return (f"<dl>\n{items}\n</dl>" if items else "") + named
