"""Charts and filters as SVG and as PNG, for documents: dark on white."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import vl_convert

from weightcast_lab.report.filters_chart import filter_images
from weightcast_lab.report.pictures import NAMES
from weightcast_lab.report.theme import LIGHT_INK, LIGHT_PAPER, on_paper

WIDTH = 640  # pixels, without names and axes
SCALE = 2.0  # pixels of the PNG per pixel of the chart
TILE, GAP, TRIPLES = 72, 8, 3  # of filters: pixels, pixels, triples side by side


def svg(spec: dict[str, Any]) -> bytes:
    """The chart as an SVG document, dark on white."""
    return vl_convert.vegalite_to_svg(on_paper(spec, WIDTH)).encode()


def png(spec: dict[str, Any]) -> bytes:
    """The chart as a PNG image, dark on white."""
    return vl_convert.vegalite_to_png(on_paper(spec, WIDTH), scale=SCALE)


def filters_svg(networks: Mapping[str, dict[str, Any]]) -> str:
    """True, known and predicted filters of each network, below its name."""
    parts, top = [], 16
    triple = len(NAMES) * (TILE + GAP)
    for name, figure in networks.items():
        parts.append(f'<text x="16" y="{top + 12}" font-weight="bold">{escape(name)}</text>')
        top += 24
        for number, item in enumerate(figure["filters"]):
            x = 16 + number % TRIPLES * (triple + 2 * GAP)
            y = top + number // TRIPLES * (TILE + 40)
            parts += _triple(item, figure["shape"], x, y)
        top += (TILE + 40) * -(-len(figure["filters"]) // TRIPLES) + 16
    width = 32 + TRIPLES * (triple + 2 * GAP) - 3 * GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
        f'viewBox="0 0 {width} {top}" font-family="sans-serif" font-size="12" fill="{LIGHT_INK}">'
        f'<rect width="{width}" height="{top}" fill="{LIGHT_PAPER}"/>{"".join(parts)}</svg>'
    )


def rasterised(svg: str) -> bytes:
    """An SVG document as a PNG image."""
    return vl_convert.svg_to_png(svg, scale=SCALE)


def _triple(item: dict[str, Any], shape: Any, x: int, y: int) -> list[str]:
    images = filter_images(item["true"], item["known"], item["predicted"], shape)
    parts = [
        f'<text x="{x}" y="{y + TILE + 28}">unit {escape(str(item["unit"]))}: '
        f"{100 * item['r2']:.0f} % of variance explained</text>"
    ]
    for i, (name, uri) in enumerate(zip(NAMES, images, strict=True)):
        left = x + i * (TILE + GAP)
        parts.append(
            f'<text x="{left}" y="{y + 10}" font-size="11">{name}</text>'
            f'<rect x="{left}" y="{y + 14}" width="{TILE}" height="{TILE}" fill="#c9ced6"/>'
            f'<image x="{left}" y="{y + 14}" width="{TILE}" height="{TILE}" href="{uri}" '
            'preserveAspectRatio="none" image-rendering="optimizeSpeed" '
            'style="image-rendering:pixelated"/>'
        )
    return parts
