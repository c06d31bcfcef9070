"""Commands and functions that other packages offer the command, found by entry points.

A command is a module with SUMMARY, HELP, ``add_options(parser)`` and ``run(options)``, which
returns the exit code, None for 0; what takes long to import is imported in there. It may have
PARSER, a subclass of :class:`weightcast.cli.parsing.Parser`. Other packages name their commands
under ``weightcast.commands``, and under ``weightcast.extensions`` what the library's own commands
ask of them: so the library never imports the laboratory.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

INSTALL_LAB = "pip install 'weightcast[lab]'"


def installed_commands() -> dict[str, ModuleType]:
    """The commands of other installed packages, by name."""
    return {entry.name: entry.load() for entry in entry_points(group="weightcast.commands")}


def extension(name: str, purpose: str) -> Any:
    """What an installed package offers under this name; ``purpose`` is named where none does."""
    found = entry_points(group="weightcast.extensions", name=name)
    if not found:
        raise ValueError(f"{purpose} needs the laboratory: {INSTALL_LAB}")
    try:
        return next(iter(found)).load()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ValueError(f"{purpose} needs {package}: {INSTALL_LAB}") from error
