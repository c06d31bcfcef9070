"""Parser: options by argparse; a mistake is a ValueError that names the remedy."""

from __future__ import annotations

import argparse
import contextlib
import math
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from weightcast.serialization import nearest

_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


class Parser(argparse.ArgumentParser):
    """The options of a command; ``text`` says what it does."""

    def __init__(self, command: str, text: str) -> None:
        super().__init__(
            prog=f"weightcast {command}",
            description=text,
            formatter_class=_HelpWithDefaults,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self.command = command
        self.register("type", int, checked(int, "int"))
        self.register("type", float, checked(_finite, "float"))
        self.register("type", bool, checked(lambda text: _TRUTH[text.lower()], "bool"))

    def read(self, words: Sequence[str]) -> Namespace:
        """The options.

        Raises:
            ValueError: unknown words, with the nearest option; missing ones; unreadable values.
        """
        try:
            options, unknown = self.parse_known_args(words)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, ArgumentTypeError):  # one of ours, see `checked`
                raise ValueError(f"{error.argument_name} {error.message}") from error
            raise ValueError(str(error)) from error
        if unknown:
            raise ValueError(self._explain(unknown))
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


def checked(read: Callable[[str], Any], kind: str) -> Callable[[str], Any]:
    """An option's type: where ``read`` raises KeyError or ValueError, the error names ``kind``."""

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


def _number(text: str) -> int | float:
    with contextlib.suppress(ValueError):
        return int(text)
    return _finite(text)


number = checked(_number, "int or float")
"""Type of an option that tells 1 from 1.0, as Python does."""


integers = checked(
    lambda text: list(map(int, text.removeprefix("[").removesuffix("]").split(","))), "list[int]"
)
"""Type of an option such as ``[1,28,28]``."""


class _HelpWithDefaults(argparse.HelpFormatter):
    """Says an option's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = (None, False, argparse.SUPPRESS)
        if not action.option_strings or any(action.default is value for value in hidden):
            return action.help
        return f"{action.help} (default: %(default)s)"
