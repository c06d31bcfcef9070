"""The command ``weightcast``: a user's mistake is one line on stderr, and exit code 2."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, version

from weightcast.cli.extras import broken_package
from weightcast.cli.installed import INSTALL_LAB, OWN, command_parser, commands
from weightcast.serialization import nearest

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are without the program's name.

    Returns:
        The exit code: 0, 1 where trials or checks failed, 2 for a user's mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show ends no work
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(words)
    except KeyboardInterrupt as interrupt:
        print(f"\nweightcast: {str(interrupt) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        line = broken_package(error) or _explain(error, words)
        if line is None:
            raise
        # On one line, whatever a library put into its message.
        print(f"weightcast: error: {' '.join(line.split())}", file=sys.stderr)
        return USER_ERROR


def _explain(error: Exception, words: list[str]) -> str | None:
    """What to tell of an error; None for those that are no mistake of the user's."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        remedy = "pip install 'weightcast[onnx]'" if words[0] == "export" else INSTALL_LAB
        return f"this needs {error.name.partition('.')[0]}: {remedy}"
    return str(error) if isinstance(error, (ValueError, OSError, ModuleNotFoundError)) else None


def _dispatch(words: list[str]) -> int:
    """Read one command's options and run it; no other command is loaded."""
    known = commands()
    if not words:
        listed = " or ".join(", ".join(known).rsplit(", ", 1))
        raise ValueError(f"name a command: {listed}; weightcast --help says more")
    name, *rest = words
    if name in ("-h", "--help"):
        _print_overview(known)
        raise SystemExit(0)
    if name == "--version":
        print(f"weightcast {version('weightcast')}")
        return 0
    if name not in known:
        lacking = f"; demo, train and others need the laboratory: {INSTALL_LAB}"
        remedy = lacking if len(known) == len(OWN) else ""
        raise ValueError(f"invalid choice: {name!r} is no command{nearest(name, known)}{remedy}")
    command = known[name].load()
    options = command_parser(name, command).read(rest)
    options.words = words  # for those that say how to go on
    return command.run(options) or 0


def _print_overview(known: Mapping[str, EntryPoint]) -> None:
    text = "Learn a few of a network's weights and predict the rest."
    parser = argparse.ArgumentParser(prog="weightcast", description=text)
    parser.add_argument("--version", action="version", version=version("weightcast"))
    listed = parser.add_subparsers(
        title="commands", metavar="COMMAND", description="weightcast COMMAND --help says more"
    )
    for name, entry in known.items():
        listed.add_parser(name, help=_summary(entry))
    parser.print_help()


def _summary(entry: EntryPoint) -> str:
    try:
        return entry.load().SUMMARY
    except Exception:  # a stranger's, perhaps: the others are listed all the same
        return "Cannot be loaded: weightcast doctor says why."
