"""Result rows: one JSON object a line, with all that is needed to tell how a number came about."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from weightcast.cli.result_rows import SCHEMA, Row, append_row, make_row

__all__ = ["OWN_RATE", "SCHEMA", "Row", "append_row", "make_row", "read_rows"]

OWN_RATE = {"learning_rate": "chosen"}
"""The label of runs whose learning rate validation data chose for their own curve and share."""

_ENTRIES = ("experiment", "variant", "dataset", "seed", "config", "counts", "metrics", "versions")


def read_rows(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Row]:
    """Read all rows of one file or of several, in order; empty lines are skipped.

    Raises:
        ValueError: no such file, or a line that is no row, named by file and line.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    rows = []
    for path in map(Path, paths):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise ValueError(f"cannot read the rows in {path}: {error.strerror}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_read_row(line, f"{path}, line {number}"))
    return rows


def _read_row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}, where a row is an object")
    if row.get("schema") != SCHEMA:
        raise ValueError(
            f"{where}: schema {row.get('schema')!r}, this weightcast reads schema {SCHEMA}"
        )
    missing = [entry for entry in _ENTRIES if entry not in row]
    if missing:
        raise ValueError(f"{where}: the row lacks {', '.join(map(repr, missing))}")
    return row
