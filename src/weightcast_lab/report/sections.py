"""Figures -> sections of a page: controls, chart, table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from weightcast_lab.report import (
    comparison,
    glossary,
    learning,
    pictures,
    predictability,
    shrinkage,
)
from weightcast_lab.report.captions import caption
from weightcast_lab.report.charts import error_chart
from weightcast_lab.report.figures import (
    SHARE_KNOWN,
    Benchmark,
    Comparison,
    Figure,
    Learning,
    LinesFigure,
    Predictability,
    Shrinkage,
)
from weightcast_lab.report.lines_chart import Style, chart_values, lines_chart, styles
from weightcast_lab.report.series import ShownMetric, in_words
from weightcast_lab.report.summary import summarise
from weightcast_lab.report.terminal import benchmark_table, lines_table

# Outlines of Vega's symbols around (0, 0).
OUTLINES = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "square": "M-3.5,-3.5h7v7h-7z",
    "triangle-up": "M0,-4.2L4.2,3.4H-4.2z",
    "triangle-down": "M0,4.2L4.2,-3.4H-4.2z",
    "diamond": "M0,-4.6L4,0L0,4.6L-4,0z",
    "cross": "M-4.4,-1.5h2.9v-2.9h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9z",
}


def section(figure: Figure) -> str:
    """A figure's part of the page."""
    if isinstance(figure, LinesFigure):
        parts = _lines(figure)
    elif isinstance(figure, Comparison):
        parts = _comparison(figure)
    elif isinstance(figure, Predictability):
        parts = _predictability(figure)
    elif isinstance(figure, Shrinkage):
        parts = _shrinkage(figure)
    elif isinstance(figure, Learning):
        parts = _learning(figure)
    else:
        parts = _benchmark(figure)
    return "\n".join(
        [
            f'<section id="{figure.name}" aria-labelledby="{figure.name}-title">',
            f'<h2 id="{figure.name}-title">{escape(figure.title)}</h2>',
            *parts,
            "</section>",
        ]
    )


def chart(figure: Figure) -> dict[str, Any] | None:
    """What the page's script draws and filters; None for a figure without a chart."""
    if isinstance(figure, Benchmark):
        return None
    if isinstance(figure, Comparison):
        return {"specs": {"test_error": error_chart(_summaries(figure))}, "groups": []}
    if isinstance(figure, Predictability):
        return {
            "specs": {"r2": predictability.chart(figure.results, figure.measured)},
            "groups": [],
        }
    if isinstance(figure, Shrinkage):
        return {"specs": {"metric": shrinkage.chart(figure.result)}, "groups": []}
    if isinstance(figure, Learning):
        return {"specs": {"loss": learning.chart(figure.result)}, "groups": []}
    looks = styles(figure.lines)
    names = list(figure.settings)
    return {
        "specs": {
            m.name: lines_chart(figure.lines, m, figure.x_title, looks) for m in figure.metrics
        },
        "groups": [
            {
                "curve": line.curve,
                "settings": {name: line.settings[name] for name in names if name in line.settings},
                "words": {n: in_words(n, line.settings[n]) for n in names if n in line.settings},
            }
            for line in figure.lines
        ],
    }


def _summaries(figure: Comparison) -> list[Any]:
    return summarise([r.row for r in figure.results], [r.where for r in figure.results])


def _comparison(figure: Comparison) -> list[str]:
    summaries = _summaries(figure)
    return [
        comparison.table(summaries),
        comparison.precision([result.row for result in figure.results], summaries),
        comparison.reading(summaries),
        _drawing(figure.name, "Test error against learned weights"),
        comparison.descriptions(summaries),
    ]


def _predictability(figure: Predictability) -> list[str]:
    measured = figure.measured
    head, body = predictability.table(figure.results, measured)
    axis = predictability.AXES[measured]
    table = _table(head, body, f"{axis}, by share of known weights.", settings=["known"])
    return [
        f"<p>{escape(predictability.READING[measured])}</p>",
        f"<p>{escape(predictability.summary(figure.results, measured))}</p>",
        f'<p class="soft">{escape(predictability.SYMBOLS)}</p>',
        _drawing(figure.name, f"{axis}, by layer and dictionary"),
        _boxed(figure.title, table),
        glossary.sentences(head[2:]),
    ]


def _shrinkage(figure: Shrinkage) -> list[str]:
    head, body = shrinkage.table(figure.result)
    caption = "What was tried: the budget is the share of the numbers that it might store."
    return [
        f"<p>{escape(shrinkage.summary(figure.result))}</p>",
        f'<p class="soft">{escape(shrinkage.READING)}</p>',
        _drawing(figure.name, "Metric against the share of the numbers stored"),
        _boxed(figure.title, _table(head, body, caption, settings=[])),
    ]


def _learning(figure: Learning) -> list[str]:
    head, body = learning.table(figure.result)
    return [
        f"<p>{escape(learning.summary(figure.result))}</p>",
        f'<p class="soft">{escape(learning.READING)}</p>',
        _drawing(figure.name, "Losses after each epoch"),
        _boxed(figure.title, _table(head, body, "Measured after each epoch.", settings=[])),
    ]


def _benchmark(figure: Benchmark) -> list[str]:
    head, body = benchmark_table(figure.results)
    caption = (
        "Time of one training step over the dense network's, measured side by side: median and "
        "range over n repetitions; below 1 is faster than dense."
    )
    table = _boxed(figure.title, _table(head, body, caption, settings=["measured with"]))
    return [table, glossary.sentences(line[0] for line in body)]


def _lines(figure: LinesFigure) -> list[str]:
    looks = styles(figure.lines)
    kind = "Variance explained" if figure.x_title == SHARE_KNOWN else "Error"
    return [
        f"<p>{escape(_reading(figure))}</p>",
        _controls(figure, looks),
        '<p class="status soft" role="status"></p>',
        _drawing(figure.name, f"{kind} against share of weights, one line per {figure.unit}"),
        f'<p class="soft">{escape(_caption(figure))}</p>',
        *(_lines_table(figure, metric) for metric in figure.metrics),
        glossary.sentences(looks if figure.unit == "curve" else ()),  # networks tell below
        *_filter_parts(figure),
    ]


def _reading(figure: LinesFigure) -> str:
    if figure.x_title == SHARE_KNOWN:
        return (
            "How to read it: each line is one network; further right, more of each filter's "
            "weights are known; further up, more of their variance is predicted from those."
        )
    text = (
        "How to read it: each line is one way to predict weights; further left, fewer of the "
        "hidden layers' weights are learned; further down, fewer test examples are mistaken."
    )
    if any(line.is_reference for line in figure.lines):
        text += " The level grey line is the network with every weight learned."
    return text


def _caption(figure: LinesFigure) -> str:
    values = [value for m in figure.metrics for value in chart_values(figure.lines, m)]
    common = f" All lines: {figure.common}." if figure.common else ""
    return caption(values, figure.x_title) + common


def _drawing(name: str, label: str) -> str:
    return (
        f'<div class="chart" id="{name}-chart" data-chart="{name}" role="img" '
        f'aria-label="{escape(label)}; the numbers are in the table below"></div>'
    )


def _controls(figure: LinesFigure, looks: dict[str, Style]) -> str:
    keys = "\n".join(
        f'<label class="key"><input type="checkbox" name="curve" value="{escape(curve)}" checked>'
        f"{_swatch(look)}{escape(curve)}</label>"
        for curve, look in looks.items()
    )
    choices = [_metric_choice(figure.metrics)] if len(figure.metrics) > 1 else []
    shown = figure.shown
    choices += [_choice(name, values, shown[name]) for name, values in figure.settings.items()]
    return (
        f'<form class="controls" data-controls="{figure.name}" autocomplete="off" '
        'aria-label="What the chart and the table show">\n'
        f'<div class="choices">{"".join(choices)}</div>\n'
        f"<fieldset><legend>{figure.unit.capitalize()}s</legend>\n"
        f'<div class="keys">\n{keys}\n</div>\n'
        '<button type="button" data-check="true">all</button>\n'
        '<button type="button" data-check="">none</button>\n</fieldset></form>'
    )


def _metric_choice(metrics: Sequence[ShownMetric]) -> str:
    options = "".join(
        f'<option value="{escape(metric.name)}">{escape(metric.title)}</option>'
        for metric in metrics
    )
    return f'<label>measure <select name="metric">{options}</select></label>'


def _choice(name: str, values: Sequence[str], shown: str) -> str:
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == shown else ""}>'
        f"{escape(value)}</option>"
        for value in values
    )
    words = name.replace("pretrained", "pre-trained").replace("_", " ")
    return (
        f'<label>{escape(words)} <select name="setting" data-setting="{escape(name)}">'
        f'{options}<option value="">all</option></select></label>'
    )


def _swatch(look: Style) -> str:
    dash = f' stroke-dasharray="{look.dash[0]} {look.dash[1]}"' if look.dash[1] else ""
    return (
        '<svg class="swatch" viewBox="-15 -6 30 12" aria-hidden="true">'
        f'<path d="M-15,0H15" stroke="{look.colour}" stroke-width="2"{dash}/>'
        + (f'<path d="{OUTLINES[look.shape]}" fill="{look.colour}"/>' if look.shape else "")
        + "</svg>"
    )


def _lines_table(figure: LinesFigure, metric: ShownMetric) -> str:
    head, body = lines_table(figure, metric)
    caption = f"{metric.title}: mean ± standard deviation (number of runs)."
    table = _table(head, body, caption, settings=list(figure.settings))
    return _boxed(f"{figure.title}: {metric.title}", table, f' data-metric="{escape(metric.name)}"')


def _table(
    head: Sequence[str], body: Sequence[Sequence[str]], caption: str, settings: Sequence[str]
) -> str:
    """A table: a name, settings, then numbers; rows and settings can be found by the script."""
    names = [f' class="name" data-setting="{escape(name)}"' for name in settings]
    attributes = ["", *names, *[""] * (len(head) - 1 - len(names))]
    heading = "".join(
        f'<th scope="col"{attribute}>{escape(text)}</th>'
        for attribute, text in zip(attributes, head, strict=True)
    )
    lines = "\n".join(
        f'<tr data-group="{group}"><th scope="row">{escape(name)}</th>'
        + "".join(
            f"<td{attribute}>{_small_number(escape(text))}</td>"
            for attribute, text in zip(attributes[1:], cells, strict=True)
        )
        + "</tr>"
        for group, (name, *cells) in enumerate(body)
    )
    return (
        f'<table class="wide"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{heading}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"
    )


def _small_number(text: str) -> str:
    """The number of runs, in brackets at the end, stands back."""
    return re.sub(r"(\(\d+\))$", r'<span class="n">\1</span>', text)


def _boxed(label: str, table: str, attributes: str = "") -> str:
    """A table that scrolls inside its box, by keyboard too, where the screen is narrow."""
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="Table: {escape(label)}"'
        f"{attributes}>\n{table}</div>"
    )


def _filter_parts(figure: LinesFigure) -> list[str]:
    parts = []
    for network, data in figure.filters.items():
        parts += [
            f'<div data-curve="{escape(network)}"><h3>{escape(network)}</h3>',
            pictures.paragraphs(data),
            pictures.pictures(data),
            "</div>",
        ]
    return parts
