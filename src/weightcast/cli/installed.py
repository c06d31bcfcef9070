"""The commands, and functions that other packages offer them, found by entry points.

A command is a module with SUMMARY, HELP, ``add_options(parser)`` and ``run(options)``, which
returns the exit code, None for 0; what takes long to import is imported in there. It may have
PARSER, a subclass of :class:`weightcast.cli.parsing.Parser`. Other packages name their commands
under ``weightcast.commands``, and under ``weightcast.extensions`` what the library's own commands
ask of them: so the library never imports the laboratory.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from weightcast.cli.parsing import Parser

INSTALL_LAB = "pip install 'weightcast[lab]'"

OWN = ("convert", "compress", "shrink", "distil", "probe", "export", "doctor")
"""Commands of the library itself."""

_ORDER = ("demo", "train", "adapt", *OWN[:5], "reproduce", "bench", "report", *OWN[5:])
_GROUP = "weightcast.commands"


def commands() -> dict[str, EntryPoint]:
    """All commands by name, as they are listed: those of strangers come last. None is loaded."""
    own = (EntryPoint(name, f"weightcast.cli.{name}_command", _GROUP) for name in OWN)
    found = {entry.name: entry for entry in (*own, *entry_points(group=_GROUP))}
    return {name: found[name] for name in (*_ORDER, *found) if name in found}


def command_parser(name: str, command: ModuleType) -> Parser:
    """The options of a command."""
    make = getattr(command, "PARSER", Parser)
    parser = make(name, f"{command.SUMMARY} {command.HELP}")
    command.add_options(parser)
    return parser


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
