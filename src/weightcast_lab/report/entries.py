"""Entries of rows, or an error that says which row lacks them."""

from __future__ import annotations

import math
from typing import Any

from weightcast_lab.sweeps.rows import Row


def entry(row: Row, where: str, *path: str) -> Any:
    """The value at a path of keys.

    Args:
        row: a result row.
        where: what to call it: its file and line, or its number.
        path: keys, from the outside in.

    Raises:
        ValueError: the row has no such entry.
    """
    value: Any = row
    for depth, key in enumerate(path, start=1):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{where} has no {'.'.join(path[:depth])!r}")
        value = value[key]
    return value


def number(row: Row, where: str, *path: str) -> float:
    """The finite number at a path of keys; arguments as of :func:`entry`.

    Raises:
        ValueError: the row has no such entry, or it is no finite number.
    """
    value = entry(row, where, *path)
    if not is_number(value):
        raise ValueError(f"{where}: {'.'.join(path)} is {value!r}, not a finite number")
    return value


def is_number(value: Any) -> bool:
    """Whether this is a number a mean can be taken of."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
