"""run: measure block after block, and keep each block's rows as soon as it is finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from weightcast_lab.bench.block import EXPERIMENT, BenchBlock, Say, measure
from weightcast_lab.bench.contenders import PREDICTED, Contender
from weightcast_lab.bench.protocol import Protocol
from weightcast_lab.sweeps.rows import Row, append_row, read_rows

Key = tuple[str, str]


def run(
    blocks: Iterable[BenchBlock],
    protocol: Protocol,
    rows: Path | None = None,
    say: Say = lambda _: None,
) -> list[Row]:
    """Measure blocks, but for those whose rows a file holds already.

    Args:
        blocks: what to measure.
        protocol: how.
        rows: a file that each finished block's rows are appended to, and read from at first.
        say: what to do with a message to the user: what is measured, and what failed.

    Returns:
        The rows of all these blocks, in their order.

    Raises:
        ValueError: rows that cannot be read, or nothing to measure.
    """
    blocks = list(blocks)
    if not blocks:
        raise ValueError("there is nothing to measure: no combination of the options can be built")
    known = _read(rows)
    found: list[Row] = []
    for number, block in enumerate(blocks, start=1):
        keys = [_key(block, contender, protocol) for contender in block.contenders]
        if all(key in known for key in keys):
            found += [known[key] for key in keys]
            continue
        say(f"{number}/{len(blocks)} {block.label}")
        for row in _measure(block, protocol, say):
            if rows is not None:
                append_row(rows, row)
            found.append(row)
    return found


def _measure(block: BenchBlock, protocol: Protocol, say: Say) -> list[Row]:
    """A block's rows; where that fails, those of each contender that can be measured alone.

    A kernel that fails, in whatever way, does so alone.
    """
    without = tuple(one for one in block.contenders if one.path != "fused")
    has_kernel = len(without) < len(block.contenders)
    try:
        return measure(block, protocol, say)
    except Exception as error:
        if not has_kernel and not isinstance(error, (RuntimeError, MemoryError)):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    say(f"failed: {block.label}: {first}")
    if without and has_kernel:
        return _measure(dataclasses.replace(block, contenders=without), protocol, say)
    if len(block.contenders) == 1 or block.contenders[0].kind == PREDICTED:
        return []  # of predicted networks the paths are compared: not one without the others
    alone = [dataclasses.replace(block, contenders=(one,)) for one in block.contenders]
    return [row for one in alone for row in _measure(one, protocol, say)]


def _read(rows: Path | None) -> dict[Key, Row]:
    """Rows of earlier runs by what they measured; of two the later one."""
    if rows is None or not rows.exists():
        return {}
    return {
        (row["variant"], _canonical(row["config"])): row
        for row in read_rows(rows)
        if row["experiment"] == EXPERIMENT
    }


def _key(block: BenchBlock, contender: Contender, protocol: Protocol) -> Key:
    return (block.variant(contender), _canonical(block.config(contender, protocol)))


def _canonical(config: object) -> str:
    return json.dumps(config, sort_keys=True)
