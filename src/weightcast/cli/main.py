"""The command ``weightcast``: a user's mistake is one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from weightcast.cli import (
    compress_command,
    convert_command,
    doctor_command,
    export_command,
    probe_command,
)
from weightcast.cli.installed import INSTALL_LAB, installed_commands
from weightcast.cli.parsing import Parser
from weightcast.serialization import nearest

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130

_OWN = {
    "convert": convert_command,
    "compress": compress_command,
    "probe": probe_command,
    "export": export_command,
    "doctor": doctor_command,
}
_ORDER = (
    *("demo", "train", "convert", "compress", "probe"),
    *("reproduce", "bench", "report", "export", "doctor"),
)
"""In which commands are listed; those of other packages come last."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are without the program's name.

    Returns:
        The exit code: 0, 1 where trials or checks failed, 2 for a user's mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt as interrupt:
        print(f"\nweightcast: {str(interrupt) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        remedy = "pip install 'weightcast[onnx]'" if words[0] == "export" else INSTALL_LAB
        package = str(error.name).partition(".")[0]
        print(f"weightcast: error: this needs {package}: {remedy}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError) as error:
        # On one line, whatever a library put into its message.
        print(f"weightcast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR


def _dispatch(words: list[str]) -> int:
    """Read one command's options and run it; no other command's are made."""
    others = installed_commands()
    found = _OWN | others
    commands = {name: found[name] for name in (*_ORDER, *found) if name in found}
    if not words:
        known = " or ".join(", ".join(commands).rsplit(", ", 1))
        raise ValueError(f"name a command: {known}; weightcast --help says more")
    name, *rest = words
    if name in ("-h", "--help"):
        _print_overview(commands)
        raise SystemExit(0)
    if name not in commands:
        remedy = "" if others else f"; demo, train and others need the laboratory: {INSTALL_LAB}"
        raise ValueError(f"invalid choice: {name!r} is no command{nearest(name, commands)}{remedy}")
    command = commands[name]
    make_parser = getattr(command, "PARSER", Parser)
    parser = make_parser(name, f"{command.SUMMARY} {command.HELP}")
    command.add_options(parser)
    options = parser.read(rest)
    options.words = words  # for those that say how to go on
    return command.run(options) or 0


def _print_overview(commands: Mapping[str, ModuleType]) -> None:
    text = "Learn a few of a network's weights and predict the rest."
    parser = argparse.ArgumentParser(prog="weightcast", description=text)
    listed = parser.add_subparsers(
        title="commands", metavar="COMMAND", description="weightcast COMMAND --help says more"
    )
    for name, command in commands.items():
        listed.add_parser(name, help=command.SUMMARY)
    parser.print_help()
