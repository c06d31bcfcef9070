"""Figure 1 of the paper, as a section of a page: filters three times, and how well they match."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from weightcast_lab.report.filters_chart import filter_images

NEEDED = ("shape", "filters", "r2", "description")
NAMES = ("true", "known", "predicted")


def check_figure(figure: Any, where: str = "the data of figure 1") -> dict[str, Any]:
    """Filters of a network as data.

    Raises:
        ValueError: an entry is missing; ``where`` names what lacks it.
    """
    if not isinstance(figure, dict):
        raise ValueError(f"{where} is a {type(figure).__name__}, not an object with filters")
    missing = [key for key in NEEDED if key not in figure]
    if missing:
        raise ValueError(f"{where} has no {', '.join(map(repr, missing))}")
    return figure


def paragraphs(figure: dict[str, Any]) -> str:
    """What is shown, in words."""
    return "\n".join(f"<p>{escape(text)}</p>" for text in figure["description"])


def pictures(figure: dict[str, Any]) -> str:
    """Each filter as it is, what is known of it, and what is predicted from that."""
    items = "\n".join(_filter(item, figure["shape"]) for item in figure["filters"])
    return f'<div class="filters">\n{items}\n</div>'


def shares(figure: dict[str, Any]) -> str:
    """The share of variance explained, by the number of known weights."""
    lines = "\n".join(
        f'<tr><th scope="row">{row["n_atoms"]:,} ({100 * row["fraction"]:g} %)</th>'
        f"<td>{100 * row['r2']:.0f} %</td></tr>"
        for row in figure["r2"]
    )
    return (
        '<table class="narrow"><caption>All filters of the layer together.</caption>'
        '<thead><tr><th scope="col">known weights</th>'
        '<th scope="col">variance explained</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _filter(item: dict[str, Any], shape: Sequence[int]) -> str:
    images = filter_images(item["true"], item["known"], item["predicted"], shape)
    unit = escape(str(item["unit"]))
    triple = "".join(
        f'<div><span>{name}</span><img src="{uri}" alt="{name} filter of unit {unit}"></div>'
        for name, uri in zip(NAMES, images, strict=True)
    )
    return (
        f'<figure><div class="triple">{triple}</div>'
        f"<figcaption>unit {unit}: {100 * item['r2']:.0f} % of variance explained</figcaption>"
        "</figure>"
    )
