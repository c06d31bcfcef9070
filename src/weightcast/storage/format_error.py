"""FormatError, and how the faults of a file that a stranger may have written are told by it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BAD_DATA = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What Python, NumPy and torch raise when what they are given makes no sense here."""


class FormatError(ValueError):
    """A folder that :func:`load` cannot read; the message says what is wrong with it."""


@contextmanager
def naming(place: str | os.PathLike[str]) -> Iterator[None]:
    """Let a FormatError begin with the folder, file or repository that it is about."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{place} {error}") from error.__cause__


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Turn whatever nonsense in a file lets others raise into a FormatError of this reason."""
    try:
        yield
    except FormatError:
        raise
    except BAD_DATA as error:
        raise FormatError(f"{reason}: {excerpt(error)}") from error


def excerpt(value: Any) -> str:
    """At most about 500 printable characters of an error's text, or of any value's repr."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    if not text.isprintable():
        text = repr(text)[1:-1]
    return text if len(text) <= 500 else f"{text[:500]} ..."


def parse_json(text: bytes, name: str) -> Any:
    """Read JSON text of bounded length, in which no name comes twice in one object.

    Raises:
        FormatError: it is no such text, and from the file ``name``.
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

    try:
        return json.loads(
            text.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=finite
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is damaged: {name}: {excerpt(error)}") from error
