"""Result rows: one JSON object a line, with all that is needed to tell how a number came about."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from weightcast.files import UTF_16, check_place, user_path
from weightcast.layers.counts import Ledger

SCHEMA = 1

Row = dict[str, Any]
"""A row as JSON data; :func:`make_row` says what it holds."""


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

    Rows of one ``experiment``, such as ``"demo"``, are compared; ``variant`` tells them apart, such
    as ``"5 % learned"``. ``counts`` are numbers of weights, and ``metrics`` what was measured:
    test_error in percent, train_seconds, checkpoint_bytes, ...
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


def row_counts(counts: Ledger) -> dict[str, int]:
    """The totals of a ledger that a row holds."""
    names = ("dense", "learned", "static", "stored", "multiply_adds")
    return {name: getattr(counts.total, name) for name in names}


def check_rows(path: str | os.PathLike[str] | None) -> None:
    """Refuse, before the work, a file that rows could not be appended to, by a ValueError."""
    check_place(path)
    if path is not None and (file := user_path(path)).is_file():
        with file.open("rb") as opened:
            if opened.read(2) in UTF_16:
                raise ValueError(f"{path} is in UTF-16, and rows are UTF-8: name another file")


def append_row(path: str | os.PathLike[str], row: Row) -> None:
    """Append a row to a file in one write, and wait until it is on the disk.

    The file and its folders are made where they are missing. A value that JSON cannot hold, such as
    NaN, is a ValueError.
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


def _ends_inside_a_line(file: Any) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
