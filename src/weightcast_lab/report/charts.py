"""Summaries -> charts, as Vega-Lite specifications (JSON data).

Text, axes and grid are drawn in ``currentColor``, so a chart follows the page into dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from weightcast_lab.report.summary import Summary, spread_note
from weightcast_lab.report.theme import COLOURS, INK, NEUTRAL, SHAPES, cycle, themed

PHONE = 400
"""Pixels; drawings that are not as wide are a phone's."""


def error_chart(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Test error against learned weights, log x: mean, spread and the single runs.

    A single network is a bar.

    Args:
        summaries: one per variant.

    Returns:
        A Vega-Lite specification as wide as its container.
    """
    if len(summaries) == 1:
        return _single(summaries[0])
    names = [summary.variant for summary in summaries]
    scale = {
        "color": alt.Color("variant:N", sort=names, scale=cycle(names, (NEUTRAL, *COLOURS))),
        "shape": alt.Shape("variant:N", sort=names, scale=cycle(names, SHAPES)),
    }
    key = _legend()
    x = alt.X("learned:Q", title="learned weights (log scale)", **_log_axis(summaries))
    vertical = {"title": "test error (%)", "scale": _error_scale(summaries)}

    runs = alt.Chart(alt.Data(values=_run_points(summaries)))
    means = alt.Chart(alt.Data(values=_mean_points(summaries)))
    single = runs.mark_tick(thickness=2, size=16, orient="horizontal", opacity=1).encode(
        x=x,
        y=alt.Y("error:Q", **vertical),
        color=scale["color"],
        tooltip=[
            alt.Tooltip("variant:N"),
            alt.Tooltip("seed:Q"),
            alt.Tooltip("error:Q", title="test error (%)", format=".2f"),
        ],
    )
    spread = means.mark_rule(strokeWidth=2).encode(
        x=x, y=alt.Y("low:Q", **vertical), y2="high:Q", color=scale["color"]
    )
    mean = means.mark_point(filled=True, size=110, opacity=1).encode(
        x=x,
        y=alt.Y("error:Q", **vertical),
        color=scale["color"].legend(key),
        shape=scale["shape"].legend(key),
        tooltip=[
            alt.Tooltip("variant:N"),
            alt.Tooltip("learned:Q", title="learned weights", format=","),
            alt.Tooltip("text:N", title=f"test error (%), {spread_note(summaries)}"),
        ],
    )
    return themed(
        alt.layer(spread, single, mean).properties(
            width="container",
            height=300,
            description="test error against learned weights; the numbers are in the table",
        )
    )


def _single(summary: Summary) -> dict[str, Any]:
    """One network's error as a bar from 0, with its spread and its runs."""
    (point,) = means = _mean_points([summary])
    end = max(point["high"], *summary.test_errors) or 1.0
    scale = alt.Scale(domain=[0, 1.15 * end], nice=False)
    x = {"title": "test error (%)", "scale": scale}
    y = alt.Y("variant:N", axis=None)  # it is named above the chart
    mean = alt.Chart(alt.Data(values=means))
    bar = mean.mark_bar(size=28, color=COLOURS[0], opacity=0.55).encode(
        x=alt.X("error:Q", **x), y=y, tooltip=[alt.Tooltip("text:N", title="test error (%)")]
    )
    spread = mean.mark_rule(strokeWidth=2, color=INK).encode(
        x=alt.X("low:Q", **x), x2="high:Q", y=y
    )
    runs = alt.Chart(alt.Data(values=_run_points([summary])))
    single = runs.mark_tick(thickness=2, size=18, color=INK).encode(x=alt.X("error:Q", **x), y=y)
    layers = [bar] if summary.spread is None else [bar, spread, single]
    return themed(
        alt.layer(*layers).properties(
            width="container",
            height=70,
            description=f"test error: {point['text']} %; the numbers are in the table",
        )
    )


def _legend() -> alt.Legend:
    # Beside each other, names of usual length would be cut off on a phone.
    side_by_side = alt.ExprRef(f"width < {PHONE} ? 1 : 2")
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=side_by_side,
        labelLimit=240,
        symbolSize=90,
        symbolOpacity=1,
    )


def _run_points(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    return [
        {"variant": summary.variant, "learned": summary.learned, "seed": seed, "error": error}
        for summary in summaries
        for seed, error in zip(summary.seeds, summary.test_errors, strict=True)
    ]


def _mean_points(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    return [
        {
            "variant": summary.variant,
            "learned": summary.learned,
            "error": summary.mean,
            "low": summary.mean - (summary.spread or 0.0),
            "high": summary.mean + (summary.spread or 0.0),
            "text": summary.cells()[3],
        }
        for summary in summaries
    ]


def _log_axis(summaries: Sequence[Summary]) -> dict[str, Any]:
    """A log axis with room at both ends and ticks at 1, 2, 5, 10, 20, ..."""
    low = min(summary.learned for summary in summaries) / 1.4
    high = max(summary.learned for summary in summaries) * 1.4
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10**decade for decade in decades for digit in (1, 2, 5)]
    return {
        "scale": alt.Scale(type="log", domain=[low, high], nice=False),
        "axis": alt.Axis(values=[tick for tick in ticks if low <= tick <= high], format="~s"),
    }


def _error_scale(summaries: Sequence[Summary]) -> alt.Scale:
    """All runs and bars with room around them; differences are too small to be seen from 0."""
    points = _mean_points(summaries)
    values = [error for summary in summaries for error in summary.test_errors]
    values += [point[end] for point in points for end in ("low", "high")]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.5
    return alt.Scale(domain=[max(0.0, low - room), high + room], zero=False, nice=False)
