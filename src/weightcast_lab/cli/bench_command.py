"""weightcast bench: measure predicted layers beside dense ones and their peers, print tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from weightcast_lab.bench.bench_presets import PRESETS, ROUNDS, check_preset
from weightcast_lab.bench.protocol import Protocol
from weightcast_lab.bench.run import run
from weightcast_lab.bench.table import render
from weightcast_lab.bench.timing import MIN_SECONDS


def run_bench(
    preset: str = "smoke",
    layers: Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
    columns: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    dictionaries: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    rounds: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    fused: bool = False,
    memory: bool = True,
    min_seconds: float = MIN_SECONDS,
    rows: str | Path | None = None,
    markdown: bool = False,
) -> None:
    """Measure, and print what was measured as tables.

    Args:
        preset: ``smoke``, ``cpu`` or ``full``: what the other options leave open.
        layers: names of cases, or ``N-M`` for a linear layer.
        fractions: shares of weights that are learned.
        columns: groups of units.
        batches: examples per step.
        dictionaries: names of recipes.
        peers: names, or ``none``.
        rounds: alternations that count.
        threads: of torch; None leaves them as they are.
        device: cpu, cuda, or auto: a GPU where there is one.
        fused: AdamW's fused kernel.
        memory: whether peak memory is measured, in processes of their own.
        min_seconds: of one timing: shorter work is repeated until it takes that.
        rows: a file to append the rows to; what it holds already is not measured again.
        markdown: print the tables in Markdown.

    Raises:
        ValueError: an unknown name, a number out of range, nothing that can be built.
    """
    selection = PRESETS[check_preset(preset)]
    given = {
        "layers": layers,
        "fractions": fractions,
        "columns": columns,
        "batches": batches,
        "dictionaries": dictionaries,
        "peers": peers,
    }
    named = {name: tuple(values) for name, values in given.items() if values is not None}
    if layers is not None and preset == "smoke":  # its dictionary suits its own layer only
        named = {"dictionaries": None, "n_dictionaries": 1} | named
    selection = replace(selection, **named)
    protocol = Protocol(
        rounds=ROUNDS[check_preset(preset)] if rounds is None else rounds,
        threads=torch.get_num_threads() if threads is None else threads,
        device=_find_device(device),
        fused=fused,
        memory=memory,
        min_seconds=min_seconds,
    )
    file = None if rows is None else Path(rows).expanduser()
    found = run(selection.blocks(_say), protocol, file, _say)
    if not found:
        raise ValueError("nothing could be measured: the lines above say why")
    print(render(found, markdown))
    if file is not None:
        print(f"\nThe rows are in {file}.")


def _find_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _say(line: str) -> None:
    print(f"weightcast: {line}", file=sys.stderr, flush=True)
