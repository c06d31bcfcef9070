"""FormatError, and how the faults of a file that a stranger may have written are told by it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What Python, NumPy and torch raise when what they are given makes no sense here.
_BAD_DATA = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError)
_BAD_DATA += (MemoryError, RuntimeError, TypeError, ValueError)


class FormatError(ValueError):
    """A folder that :func:`load` cannot read; the message says what is wrong with it."""


@contextmanager
def naming(place: str | os.PathLike[str]) -> Iterator[None]:
    """Put the folder, file or repository that a FormatError is about at its beginning."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{place} {error}") from error.__cause__


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Turn what others raise over the nonsense in a file into a FormatError of this reason."""
    try:
        yield
    except FormatError:
        raise
    except _BAD_DATA as error:
        raise FormatError(f"{reason}: {excerpt(error)}") from error


def excerpt(value: Any) -> str:
    """At most about 500 printable characters of an error's text, or of any value's repr."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= 500 else f"{text[:500]} ..."


def parse_json(text: bytes, name: str) -> Any:
    """Read short JSON text from the file ``name``, where no name comes twice in one object."""
    try:
        return strict_json(text.decode())
    except ValueError as error:
        raise FormatError(f"is damaged: {name}: {excerpt(error)}") from error


def strict_json(text: str) -> Any:
    """What a text says in JSON, or a ValueError.

    Also for a name that comes twice in one object, numbers that are NaN or too large for a float,
    and data that are nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name comes twice")
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number:.40} is no finite number")
        return value

    def whole(number: str) -> int:
        finite(number)
        return int(number)

    how = {"parse_float": finite, "parse_constant": finite, "parse_int": whole}
    try:
        return json.loads(text, object_pairs_hook=unique, **how)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
