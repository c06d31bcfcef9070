"""Sections and charts -> one HTML document that loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

import vl_convert

from weightcast_lab.report.entries import Row

# The browser itself then refuses whatever a page that claims to be self-contained would load.
# Vega compiles its expressions, hence unsafe-eval.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def render(
    title: str, sections: Iterable[str], charts: dict[str, Any], script: str, *styles: str
) -> str:
    """The document as text.

    Args:
        title: plain text.
        sections: HTML of the body.
        charts: JSON data that the script finds in the element ``charts``.
        script: JavaScript that draws them, with ``vegaEmbed`` at hand.
        styles: names of further style sheets of this package.
    """
    style = "".join(packaged(name) for name in ("page.css", *styles))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *sections,
            f"<script>{_vega()}</script>",
            f'<script type="application/json" id="charts">{_json_for_script(charts)}</script>',
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def packaged(name: str) -> str:
    """A text file of this package."""
    return resources.files("weightcast_lab.report").joinpath(name).read_text(encoding="utf-8")


def footer(rows: Sequence[Row]) -> str:
    """What the page is made of, and with which versions."""
    versions = {
        f"{name} {version}" for row in rows for name, version in row.get("versions", {}).items()
    }
    made_with = f" Made with {escape(', '.join(sorted(versions)))}." if versions else ""
    return (
        "<footer>Drawn from result rows alone; this file loads nothing from the network."
        f"{made_with}</footer>"
    )


def _json_for_script(data: Any) -> str:
    """JSON that no string inside can break out of its script element with."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, one copy for all charts of a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )
