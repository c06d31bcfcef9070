"""What a chart of lines shows, in sentences: below it on the page, above it in its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightcast_lab.report.figures import SHARE_KNOWN
from weightcast_lab.report.lines_chart import percent

MOST_NAMED = 4  # cut bars; the table has them all


def caption(values: Sequence[dict[str, Any]], x_title: str) -> str:
    """Say what symbols, bars and shares are.

    Args:
        values: what is drawn, as of :func:`weightcast_lab.report.lines_chart.chart_values`.
        x_title: of the horizontal axis.
    """
    asked = "Shares are those asked for"
    shares = (
        f"{asked}, rounded to whole weights."
        if x_title == SHARE_KNOWN
        else f"{asked}; layers learn whole atoms or units, so the share learned may be a little "
        "more or less."
    )
    return " ".join(filter(None, [_spread(values), _cut(values), shares]))


def _spread(values: Sequence[dict[str, Any]]) -> str:
    counts = {value["n"] for value in values}
    fewest, most = min(counts, default=1), max(counts, default=1)
    if most == 1:
        return "One run per symbol, so no spread is known."
    n_runs = f"{most}" if fewest == most else f"{fewest} to {most}"
    level = any(value["reference"] for value in values)
    band = ", and the band around a level line, reach" if level else " reach"
    alone = "; a single run has no bar" if fewest == 1 else ""
    return (
        f"Symbols are means over n = {n_runs} runs with different seeds; bars{band} one "
        f"standard deviation to either side{alone}."
    )


def _cut(values: Sequence[dict[str, Any]]) -> str:
    """Which bars end before one standard deviation; empty where none does."""
    cut = [f"{value['label']} at {percent(value['share'])}" for value in values if value["cut"]]
    names = list(dict.fromkeys(cut))
    if not names:
        return ""
    more = len(names) - MOST_NAMED
    named = ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return (
        "Below a mean, where the axis is logarithmic and the standard deviation is more than half "
        f"the mean, the bar is cut at half the mean there: {named}."
    )
