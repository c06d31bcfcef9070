"""Result rows: one JSON object a line, with all that is needed to tell how a number came about."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

SCHEMA = 1

OWN_RATE = {"learning_rate": "chosen"}
"""The label of runs whose learning rate validation data chose for their own curve and share."""

Row = dict[str, Any]
"""A row as JSON data; :func:`make_row` says what it holds."""

_ENTRIES = ("experiment", "variant", "dataset", "seed", "config", "counts", "metrics", "versions")


def make_row(
    *,
    experiment: str,
    variant: str,
    dataset: str,
    seed: int,
    config: dict[str, Any],
    counts: dict[str, int],
    metrics: dict[str, float | None],
) -> Row:
    """Build a row: one run, its configuration and what came of it.

    Args:
        experiment: what the row is compared within, such as ``"demo"``.
        variant: what tells it from the experiment's other rows, such as ``"5 % learned"``.
        dataset: the data's name.
        seed: the run's.
        config: model, plan and training settings as JSON data.
        counts: numbers of weights: learned, static, stored, ...
        metrics: what was measured: test_error in percent, train_seconds, checkpoint_bytes, ...
    """
    return {
        "schema": SCHEMA,
        "experiment": experiment,
        "variant": variant,
        "dataset": dataset,
        "seed": seed,
        "config": config,
        "counts": counts,
        "metrics": metrics,
        "versions": {
            "weightcast": version("weightcast"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def append_row(path: str | os.PathLike[str], row: Row) -> None:
    """Append a row to a file in one write, and wait until it is on the disk.

    Args:
        path: the file; it and its folders are made where they are missing.
        row: as :func:`make_row` builds it.

    Raises:
        ValueError: a value that JSON cannot hold, such as NaN.
    """
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"this row cannot be written: {error}: {row!r}") from error
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a+b", buffering=0) as file:
        if _ends_inside_a_line(file):
            line = "\n" + line  # of a write that was cut short: spoil that line only
        file.write(line.encode())
        os.fsync(file.fileno())


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
    path = Path(path).expanduser()
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


def _ends_inside_a_line(file: Any) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
