"""Which rows: of a file of JSON lines or a CSV, those whose entries are as a condition says.

A condition is ``labels.curve=SE-Emp; labels.columns=10 or null``: every entry is one of its values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from csv import DictReader
from pathlib import Path
from typing import Any

from weightcast_lab.sweeps.rows import Row, rows_in

Condition = list[tuple[str, str]]


def read_any(file: Path) -> list[Row]:
    """All rows of a file, of JSON or, if its name ends so, of a CSV with numbers and words.

    Lines of a CSV with the fields metric and value are parts of rows: ``{..., metric: value}``.
    """
    if file.suffix != ".csv":
        return [row for _, row in rows_in(file)]
    with file.open(newline="", encoding="utf-8") as stream:
        found = [{key: parse_cell(cell) for key, cell in row.items()} for row in DictReader(stream)]
    if not found or not {"metric", "value"} <= found[0].keys():
        return found
    whole: dict[str, Row] = {}
    for row in found:
        part = {row.pop("metric"): row.pop("value")}
        whole.setdefault(str(row), {**row}).update(part)
    return [*whole.values()]


def parse_cell(text: str) -> Any:
    """A cell of a CSV: a number where it is one, None where it is empty."""
    try:
        return json.loads(text or "null")
    except ValueError:
        return text


def entry(row: Any, path: str) -> Any:
    """The entry of a row at a path such as labels.curve; None where there is none."""
    if not isinstance(row, dict) or path in row:
        return row[path] if isinstance(row, dict) else None
    key, _, rest = path.partition(".")
    return entry(row.get(key), rest) if rest else None


def text_of(value: Any) -> str:
    """An entry as conditions write it: 0.05, true, null, relu."""
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False).strip('"')


def parse_pairs(text: str) -> Condition:
    """``left=right`` pairs that semicolons part."""
    pairs = [part.split("=", 1) for part in text.split(";") if part.strip()]
    return [(left.strip(), right.strip()) for left, right in pairs]


def select(rows: Sequence[Row], condition: Condition) -> list[Row]:
    """The rows that meet a condition.

    Raises:
        ValueError: there are none.
    """
    kept = [r for r in rows if all(text_of(entry(r, p)) in v.split(" or ") for p, v in condition)]
    if not kept:
        raise ValueError(f"no row has {condition}")
    return kept
