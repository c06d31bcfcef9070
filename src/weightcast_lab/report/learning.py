"""How a network learned -> a chart and a table: its losses after each epoch."""

from __future__ import annotations

from typing import Any

import altair as alt

from weightcast_lab.report.entries import entry, number
from weightcast_lab.report.results import Result
from weightcast_lab.report.theme import COLOURS, SHAPES, cycle, themed

LOSSES = {"train_loss": "training", "validation_loss": "validation"}
HEADINGS = ["epoch", "steps", "training loss, nats", "validation loss, nats", "validation error, %"]
READING = (
    "How to read it: a symbol is an epoch. The training loss is the mean over the epoch's steps, "
    "the validation loss that of the weights after it."
)


def epochs(result: Result) -> list[dict[str, float]]:
    """What was measured after each epoch; errors and losses of validation where there was some.

    Raises:
        ValueError: a row that lacks what it needs.
    """
    where = f"{result.where}: the entry 'curve'"
    found = entry(result.row, result.where, "curve")
    if not isinstance(found, list) or not found:
        raise ValueError(f"{where} is not a list of epochs")
    held = ("validation_loss", "validation_error")
    return [
        {
            name: number(item, where, name)
            for name in ("epoch", "step", "train_loss", *(n for n in held if n in item))
        }
        for item in found
    ]


def table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: a line for each epoch."""
    names = {"train_loss": 4, "validation_loss": 4, "validation_error": 2}
    body = [
        [f"{epoch['epoch']:.0f}", f"{epoch['step']:,.0f}"]
        + [f"{epoch[name]:.{digits}f}" if name in epoch else "" for name, digits in names.items()]
        for epoch in epochs(result)
    ]
    return HEADINGS, body


def summary(result: Result) -> str:
    """What came of it, on the test split."""
    measured = {
        name: number(result.row, result.where, "metrics", name)
        for name in ("test_error_before", "test_error", "test_loss_before", "test_loss")
    }
    learned = number(result.row, result.where, "counts", "learned")
    return (
        f"With {learned:,.0f} learned weights the test error went from "
        + "{test_error_before:.2f} to {test_error:.2f} %, and the test loss from "
        "{test_loss_before:.4f} to {test_loss:.4f} nats.".format(**measured)
    )


def chart(result: Result) -> dict[str, Any]:
    """A line for each loss, a symbol for each epoch, as wide as its container (Vega-Lite)."""
    values = [
        {"epoch": epoch["epoch"], "loss": epoch[name], "kind": kind}
        for epoch in epochs(result)
        for name, kind in LOSSES.items()
        if name in epoch
    ]
    kinds = list(dict.fromkeys(value["kind"] for value in values))
    key = alt.Legend(title=None, orient="bottom", symbolOpacity=1)
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("epoch:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("loss:Q", title="loss, nats", scale=alt.Scale(zero=False)),
        color=alt.Color("kind:N", scale=cycle(kinds, COLOURS)).legend(key),
        shape=alt.Shape("kind:N", scale=cycle(kinds, SHAPES)).legend(key),
    )
    lines = base.mark_line(strokeWidth=2).encode(shape=alt.Undefined)
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        tooltip=["epoch:Q", alt.Tooltip("loss:Q", format=".4f"), alt.Tooltip("kind:N", title="of")]
    )
    return themed(
        alt.layer(lines, points).properties(
            width="container",
            height=300,
            description="losses after each epoch; the numbers are in the table",
        )
    )
