"""Parser: options by argparse; a mistake is a ValueError that names the remedy."""

from __future__ import annotations

import argparse
import contextlib
import math
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from weightcast.serialization import nearest


class Parser(argparse.ArgumentParser):
    """A command's options.

    Args:
        command: its name.
        text: what it does.
    """

    def __init__(self, command: str, text: str) -> None:
        super().__init__(
            prog=f"weightcast {command}",
            description=text,
            formatter_class=_HelpWithDefaults,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self.command = command
        self.dotted: tuple[str, ...] = ()
        """Options such as ``--plan``, whose ``--plan.PATH VALUE`` may name any path."""
        self.register("type", int, checked(int, "int"))
        self.register("type", float, checked(_finite, "float"))
        self.register("type", bool, checked(_truth, "bool"))

    def read(self, words: Sequence[str]) -> Namespace:
        """The options; ``paths`` holds the values of dotted ones by their paths.

        Raises:
            ValueError: unknown words, with the nearest option; missing ones; unreadable values.
        """
        words, paths = self._split_dotted(words)
        try:
            options, unknown = self.parse_known_args(words)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, ArgumentTypeError):  # one of ours, see `checked`
                raise ValueError(f"{error.argument_name} {error.message}") from error
            raise ValueError(str(error)) from error
        if unknown:
            raise ValueError(self._explain(unknown))
        options.paths = paths
        return options

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        raise ValueError(message)

    def _explain(self, unknown: Sequence[str]) -> str:
        actions = [action for action in self._actions if action.dest != "help"]
        known = [(*action.option_strings, str(action.metavar))[0] for action in actions]
        words = " ".join(unknown)
        if len(known) < 4:
            return f"{self.command} knows {' and '.join(known)}, not {words}"
        option = next((word for word in unknown if word.startswith("--")), unknown[0])
        return f"unrecognized arguments: {words}{nearest(option.partition('=')[0], known)}"

    def _split_dotted(self, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Take out ``--plan.PATH VALUE`` and ``--plan.PATH=VALUE``: layers' names are no options.

        Raises:
            ValueError: an option without a value.
        """
        rest: list[str] = []
        paths: dict[str, str] = {}
        remaining = iter(words)
        for word in remaining:
            if not word.startswith(tuple(f"{option}." for option in self.dotted)):
                rest.append(word)
                continue
            name, equals, value = word.removeprefix("--").partition("=")
            if not equals:
                value = next(remaining, None)
                if value is None:
                    raise ValueError(f"--{name} needs a value")
            paths[name] = value
        return rest, paths


def checked(read: Callable[[str], Any], kind: str) -> Callable[[str], Any]:
    """A type of options that says what it expected.

    Args:
        read: text to value; a ValueError or KeyError refuses it.
        kind: what it expects, in words.
    """

    def checked_read(text: str) -> Any:
        try:
            return read(text)
        except (KeyError, ValueError) as error:
            raise ArgumentTypeError(f"is {text!r}: expected {kind}") from error

    return checked_read


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _truth(text: str) -> bool:
    return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]


def _number(text: str) -> int | float:
    with contextlib.suppress(ValueError):
        return int(text)
    return _finite(text)


number = checked(_number, "int or float")
"""Type of an option that tells 1 from 1.0, as Python does."""


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.removeprefix("[").removesuffix("]").split(",")]


integers = checked(_integers, "list[int]")
"""Type of an option such as ``[1,28,28]``."""


class _HelpWithDefaults(argparse.HelpFormatter):
    """Says an option's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = (None, False, argparse.SUPPRESS)
        if not action.option_strings or any(action.default is value for value in hidden):
            return action.help
        return f"{action.help} (default: %(default)s)"
