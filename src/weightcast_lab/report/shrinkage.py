"""How far a network could be compressed -> a chart and a table: its metric by what is stored."""

from __future__ import annotations

from typing import Any

import altair as alt

from weightcast_lab.report.entries import entry, number
from weightcast_lab.report.lines_chart import is_log, percent
from weightcast_lab.report.results import Result
from weightcast_lab.report.theme import COLOURS, INK, NEUTRAL, SHAPES, cycle, themed

DENSE, GOOD, BAD = KINDS = ("dense", "good enough", "not good enough")
HEADINGS = ["network", "share", "budget", "stored", "metric", "good enough", "seconds"]
ROOM = 12  # pixels between the outermost symbols and the frame

READING = (
    "How to read it: a symbol is one network; further left, fewer numbers are stored. On the good "
    "side of the dashed line the metric is within the tolerance; the ring is the smallest such "
    "network, which was chosen."
)


def trials(result: Result) -> list[dict[str, Any]]:
    """What was tried, smallest first, with the words that chart and table show.

    Raises:
        ValueError: a row that lacks what it needs.
    """
    where = f"{result.where}: the entry 'shrink'"
    found = entry(result.row, result.where, "shrink", "trials")
    if not isinstance(found, list) or len(found) < 2:
        raise ValueError(f"{where}: trials is not a list of the dense network and others")
    tried = [_trial(item, f"{where}, trial {n}") for n, item in enumerate(found, start=1)]
    if tried[0]["share"] != 100 or tried[0]["metric"] is None:
        raise ValueError(f"{where}: trial 1 is not the dense network, of share 1 and with a metric")
    tried[0]["kind"] = tried[0]["name"] = DENSE
    good = [trial for trial in tried if trial["kind"] == GOOD]
    if good:
        min(good, key=lambda trial: trial["stored"])["name"] = "chosen"
    return sorted(tried, key=lambda trial: trial["stored"])


def _trial(item: Any, where: str) -> dict[str, Any]:
    holds = entry(item, where, "holds")
    if not isinstance(holds, bool):
        raise ValueError(f"{where}: holds is {holds!r}, not true or false")
    # null: evaluate returned no finite number, which is never good enough
    unknown = entry(item, where, "metric") is None and not holds
    shares = {name: 100 * number(item, where, name) for name in ("share", "budget")}
    if shares["share"] <= 0:
        raise ValueError(f"{where}: share is {item['share']}, not above 0")
    numbers = {name: number(item, where, name) for name in ("stored", "seconds")}
    metric = None if unknown else number(item, where, "metric")
    kind = GOOD if holds else BAD
    return {**shares, **numbers, "metric": metric, "kind": kind, "name": "tried"}


def tolerance(result: Result) -> float:
    """How much worse than the dense network's the metric may be.

    Raises:
        ValueError: it is missing, or no finite number of 0 or more.
    """
    found = number(result.row, result.where, "shrink", "tolerance")
    if found < 0:
        raise ValueError(f"{result.where}: shrink.tolerance is {found}, not 0 or more")
    return found


def limit(result: Result) -> float:
    """The worst metric that is good enough.

    Raises:
        ValueError: as :func:`trials`, or a row that does not say which way the metric goes.
    """
    higher = entry(result.row, result.where, "shrink", "higher_is_better")
    if not isinstance(higher, bool):
        raise ValueError(
            f"{result.where}: shrink.higher_is_better is {higher!r}, not true or false"
        )
    dense = next(trial for trial in trials(result) if trial["kind"] == DENSE)
    return dense["metric"] + (-1 if higher else 1) * tolerance(result)


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: a line for each network, smallest first."""
    body = [
        [
            trial["name"],
            percent(trial["share"]),
            percent(trial["budget"]),
            f"{trial['stored']:,.0f}",
            "no number" if trial["metric"] is None else f"{trial['metric']:.6g}",
            "no" if trial["kind"] == BAD else "yes",
            f"{trial['seconds']:.1f}",
        ]
        for trial in trials(result)
    ]
    return HEADINGS, body


def summary(result: Result) -> str:
    """The choice in a sentence, and what the chart cannot draw."""
    tried = trials(result)
    named = {trial["name"]: trial for trial in tried}
    dense, chosen, worst = named[DENSE], named.get("chosen"), limit(result)
    bound = "at least" if worst < dense["metric"] else "at most"
    asked = f"the dense network has {dense['metric']:.6g}, and {bound} {worst:.6g} is good enough."
    said = (
        f"None of the networks tried is good enough: {asked}"
        if chosen is None
        else f"Of the networks tried, the smallest that is good enough stores "
        f"{percent(chosen['share'])} of the numbers ({chosen['stored']:,.0f} of "
        f"{dense['stored']:,.0f}) and has a metric of {chosen['metric']:.6g}; {asked}"
    )
    left = [percent(trial["share"]) for trial in tried if trial["metric"] is None]
    return said + (f" Not drawn, without a finite metric: {', '.join(left)}." if left else "")


def chart(result: Result) -> dict[str, Any]:
    """A curve through all networks, a symbol for each, the tolerance as a level.

    Returns:
        A Vega-Lite specification as wide as its container.
    """
    drawn, worst = [trial for trial in trials(result) if trial["metric"] is not None], limit(result)
    low, high = (end([worst, *(trial["metric"] for trial in drawn)]) for end in (min, max))
    kind = alt.Scale(type="log") if is_log([low, high]) else alt.Scale(zero=False)
    kind.nice, kind.padding = False, ROOM
    shares = alt.Scale(domain=[0, 105], nice=False)
    ticks = alt.Axis(values=[0, 20, 40, 60, 80, 100])
    x = alt.X("share:Q", title="share of the numbers stored, %", scale=shares, axis=ticks)
    y = alt.Y("metric:Q", title="metric", scale=kind)
    below = worst >= next(trial["metric"] for trial in drawn if trial["kind"] == DENSE)
    base = alt.Chart(alt.Data(values=drawn)).encode(x=x, y=y)
    curve = base.mark_line(color=NEUTRAL, strokeWidth=1.5)
    return themed(
        alt.layer(*_level(worst, x, y), curve, _points(base), *_choice(base, below)).properties(
            width="container",
            height=300,
            description="metric against the share of the numbers stored; the numbers are in the "
            "table",
        )
    )


def _points(base: alt.Chart) -> alt.Chart:
    """A symbol for each network."""
    key = alt.Legend(title=None, orient="bottom", symbolOpacity=1)
    colours = cycle(KINDS, (NEUTRAL, COLOURS[1], COLOURS[0]))
    return base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color("kind:N", sort=KINDS, scale=colours).legend(key),
        shape=alt.Shape("kind:N", sort=KINDS, scale=cycle(KINDS, SHAPES)).legend(key),
        tooltip=[
            alt.Tooltip("name:N", title="network"),
            alt.Tooltip("share:Q", title="share stored, %", format=".3g"),
            alt.Tooltip("stored:Q", format=","),
            alt.Tooltip("metric:Q", format=".6g"),
            alt.Tooltip("kind:N", title="it is"),
        ],
    )


def _level(worst: float, x: alt.X, y: alt.Y) -> tuple[alt.Chart, alt.Chart]:
    """The tolerance as a dashed line, with its name at the left end."""
    data = [{"share": 0, "metric": worst, "label": "tolerance"}]
    level = alt.Chart(alt.Data(values=data)).encode(y=y)
    name = level.mark_text(align="left", dx=4, dy=-7, color=INK, fontSize=12)
    return level.mark_rule(color=INK, strokeDash=[5, 4]), name.encode(x=x, text="label:N")


def _choice(base: alt.Chart, below: bool) -> tuple[alt.Chart, alt.Chart]:
    """A ring around the chosen network, and its name where no curve runs: on the good side."""
    only = base.transform_filter("datum.name == 'chosen'")
    ring = only.mark_point(filled=False, shape="circle", size=320, color=INK, strokeWidth=1.5)
    name = only.mark_text(dy=22 if below else -20, color=INK, fontSize=12, fontWeight="bold")
    return ring, name.encode(text="name:N")
