"""A flow: a few lines as a user writes them, with the tool that the user has already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FLOWS: list[Flow] = []
"""All flows, in the order of the table in docs/flows.md."""


@dataclass(frozen=True)
class Flow:
    """What the user does, with what, and what comes of it.

    Args:
        title: what the user does; a row of the table.
        tools: distributions that it is done with, such as ``transformers``.
        run: does it, in an empty folder, and asserts what the user expects of it.
        remedy: where the flow is refused, what the error tells the user to do, word by word.
    """

    title: str
    tools: tuple[str, ...]
    run: Callable[[Path], None]
    remedy: str | None = None

    def outcome(self, folder: Path) -> str:
        """Run it: ``passes``, or ``refused:`` and the remedy; any other error is raised."""
        try:
            self.run(folder)
        except Exception as error:
            if self.remedy is None or self.remedy not in str(error):
                raise
            return f"refused: {self.remedy}"
        return "passes"


def flow(title: str, *tools: str, remedy: str | None = None) -> Callable:
    """Make a function of an empty folder a flow of the table."""

    def register(run: Callable[[Path], None]) -> Callable[[Path], None]:
        FLOWS.append(Flow(title, tools, run, remedy))
        return run

    return register
