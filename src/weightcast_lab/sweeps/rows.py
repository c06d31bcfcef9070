"""Result rows read back from files, each checked for the entries that it must have."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator

from weightcast.cli.result_rows import SCHEMA, Row, append_row, make_row
from weightcast.files import UTF_16, decoded, user_path
from weightcast.storage.format_error import strict_json

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
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the rows in {path}: {error.strerror}") from error
    if data[:2] in UTF_16:
        data = decoded(data, str(path)).encode()
    lines = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
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
        text = line.decode()
        if "\0" in text:
            raise ValueError("it holds zeros, as UTF-16 does")
    except ValueError as error:
        raise ValueError(f"{where} is no UTF-8 ({error}): save the file as UTF-8") from error
    try:
        row = strict_json(text)
    except ValueError as error:  # only what was cut short is lost anyway
        cut = remedy if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{where}: no JSON: {error}{cut}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}, where a row is an object")
    if row.get("schema") != SCHEMA:
        raise ValueError(
            f"{where}: schema {row.get('schema')!r}, this weightcast reads schema {SCHEMA}"
        )
    for name, kind in _KINDS.items():
        if name in row and type(row[name]) is not kind:
            raise ValueError(
                f"{where}: {name} is {row[name]!r:.60}, where a row has a {kind.__name__}"
            )
    for name, count in row.get("counts", {}).items():
        if count is not None and (type(count) is not int or count < 0):
            raise ValueError(f"{where}: counts.{name} is {count!r:.60}, which counts nothing")
    return row


_KINDS = {
    **dict.fromkeys(("experiment", "variant", "dataset"), str),
    **dict.fromkeys(("config", "counts", "metrics", "versions"), dict),
    "seed": int,
}
