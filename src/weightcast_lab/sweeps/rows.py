"""Result rows read back from files, each checked for the entries that it must have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator

from weightcast.cli.result_rows import SCHEMA, Row, append_row, make_row
from weightcast.files import user_path

__all__ = ["OWN_RATE", "SCHEMA", "Row", "append_row", "make_row", "read_rows"]

OWN_RATE = {"learning_rate": "chosen"}
"""The label of runs whose learning rate validation data chose for their own curve and share."""

_ENTRIES = ("experiment", "variant", "dataset", "seed", "config", "counts", "metrics", "versions")


def read_rows(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Row]:
    """Read all rows of one file or of several, in order; empty lines are skipped.

    Raises:
        ValueError: no such file, or a line that is no row, named by file and line.
    """
    found = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        for where, row in rows_in(path):
            check_entries(row, where, _ENTRIES)
            found.append(row)
    return found


def rows_in(path: str | os.PathLike[str], remedy: str = "") -> Iterator[tuple[str, Row]]:
    """The rows of a file, each after its file and line; which entries they have is not looked at.

    Args:
        path: of the file; empty lines are skipped.
        remedy: what to do about a line that is no JSON, as the end of the message.

    Raises:
        ValueError: no such file, or a line that is no row, named by file and line.
    """
    path = user_path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot read the rows in {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parse(line, where, remedy)


def check_entries(row: Row, where: str, needed: Iterable[str]) -> None:
    """Refuse a row that lacks an entry, and say where it was found.

    Raises:
        ValueError: it does.
    """
    missing = [entry for entry in needed if entry not in row]
    if missing:
        raise ValueError(f"{where}: the row lacks {', '.join(map(repr, missing))}")


def _parse(line: bytes, where: str, remedy: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}{remedy}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}, where a row is an object")
    if row.get("schema") != SCHEMA:
        raise ValueError(
            f"{where}: schema {row.get('schema')!r}, this weightcast reads schema {SCHEMA}"
        )
    return row
