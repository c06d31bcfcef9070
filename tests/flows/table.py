"""The table of docs/flows.md: ``python -m tests.flows.table`` runs all flows and writes it."""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from tests.flows.flow import FLOWS

PAGE = Path(__file__).parents[2] / "docs" / "flows.md"
CHAPTERS = ("trainer", "pretrained", "accelerate", "adapter", "training", "torch", "graph")
HEAD = "| flow | with | outcome |\n|---|---|---|\n"

for chapter in CHAPTERS:  # each adds its flows to FLOWS
    import_module(f"tests.flows.{chapter}_flows")


def committed() -> dict[str, tuple[str, str]]:
    """Of each title in the page, the tools with their versions, and the outcome."""
    _, table = PAGE.read_text("utf-8").split(HEAD)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {title: (tools, outcome) for title, tools, outcome in rows}


def main() -> None:
    """Run all flows, one after the other, and write the page's table anew, failures too."""
    lines = []
    for flow in FLOWS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = flow.outcome(Path(folder))
            except Exception as error:
                outcome = f"fails: {type(error).__name__}"
        tools = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in flow.tools)
        lines.append(f"| {flow.title} | {tools} | {outcome} |\n")
        print(lines[-1], end="")
    words, _ = PAGE.read_text("utf-8").split(HEAD)
    PAGE.write_text(words + HEAD + "".join(lines), "utf-8")


if __name__ == "__main__":
    main()
