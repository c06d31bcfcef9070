"""weightcast bench: measure predicted layers beside dense ones and their peers, print tables."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from weightcast.cli.result_rows import check_rows
from weightcast.files import user_path

SUMMARY = "Measure predicted layers in turn with dense ones and their peers; print tables."
HELP = """Options name what is measured, all combinations; a preset says what they leave open:
smoke (one layer, half a minute), cpu (all but the largest layer), full (hours), gpu (large layers,
16,384 rows, bfloat16, compiled into CUDA graphs, fused AdamW). Rows in FILE are not measured again,
so that a run that was stopped goes on and tables can be printed anew."""


_SELECTED = ("layers", "fractions", "columns", "batches", "dictionaries", "peers", "paths")
"""Options that a preset gives where they are left out."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--preset", default="smoke", help="smoke, cpu, full or gpu")
    many: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument(
        "--layers",
        help="784-500, 1024-1024, 4096-4096, 25088-4096, conv5x5-64-64, conv3x3-256-256, mlp, "
        "convnet; any N-M is a linear layer without a grid, llama-N two blocks of width N",
        **many,
    )
    numbers: dict[str, Any] = {"nargs": "+", "metavar": "NUMBER"}
    parser.add_argument("--fractions", type=float, help="shares of weights learned", **numbers)
    parser.add_argument("--columns", type=int, help="groups of units", **numbers)
    parser.add_argument("--batches", type=int, help="examples per step", **numbers)
    parser.add_argument(
        "--dictionaries",
        help="se, local (both need inputs on a grid), dct, "
        "dct-folded, grouped, gaussian, covariance",
        **many,
    )
    parser.add_argument(
        "--peers",
        help="narrow, low-rank; cp, tucker, tt (each also as NAME-reconstructed), lora, vera, "
        "fourierft, which need pip install 'weightcast[bench]'; or none",
        **many,
    )
    parser.add_argument(
        "--paths",
        help="auto, factored, materialised; fused is the factored one by a Triton kernel, which "
        "needs pip install 'weightcast[gpu]'",
        **many,
    )
    parser.add_argument("--rounds", type=int, help="alternations; 11, and 3 for smoke, by default")
    parser.add_argument("--threads", type=int, help="of torch; its own number by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--fused", action="store_true", help="AdamW's fused kernel")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--compiled", action="store_true", help="training by torch.compile, on CUDA with graphs"
    )
    parser.add_argument(
        "--memory", type=bool, default=True, help="peak memory, each in a process of its own"
    )
    parser.add_argument(
        "--min-seconds", type=float, default=0.1, help="of one timing; 0.02 is enough on a GPU"
    )
    parser.add_argument("--rows", metavar="FILE", help="append the rows (JSON lines)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")


def run(options: Namespace) -> None:
    """Measure, and print what was measured as tables.

    Raises:
        ValueError: an unknown name, a number out of range, nothing that can be built.
    """
    from weightcast_lab.bench.run import run as measure
    from weightcast_lab.bench.table import render

    file = None if options.rows is None else user_path(options.rows)
    check_rows(file)
    selected, protocol = _select(options), _protocol(options)
    found = measure(selected.blocks(_say, protocol.device), protocol, file, _say)
    if not found:
        raise ValueError("nothing could be measured: the lines above say why")
    print(render(found, options.markdown))
    if file is not None:
        print(f"\nThe rows are in {file}.")


def _select(options: Namespace) -> Any:
    """What is measured: the preset's selection, with what the options name."""
    from dataclasses import replace

    from weightcast_lab.bench.bench_presets import PRESETS, check_preset

    given = {name: getattr(options, name) for name in _SELECTED}
    named: dict[str, Any] = {name: tuple(v) for name, v in given.items() if v is not None}
    if options.layers is not None and options.preset == "smoke":
        # Its dictionary suits its own layer only.
        named = {"dictionaries": None, "n_dictionaries": 1} | named
    return replace(PRESETS[check_preset(options.preset)], **named)


def _protocol(options: Namespace) -> Any:
    """How it is measured."""
    import torch

    from weightcast_lab.bench.bench_presets import ROUNDS, check_preset
    from weightcast_lab.bench.protocol import Protocol

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = options.layers is None or options.batches is None
    if options.preset == "gpu" and device == "cpu" and (whole or options.device == "auto"):
        raise ValueError(
            "preset gpu takes 16,384 rows through layers of up to 8192 inputs, and torch finds no "
            "GPU: --device cpu --layers 64-64 --batches 32 runs the same code small on the CPU"
        )
    rounds = ROUNDS[check_preset(options.preset)] if options.rounds is None else options.rounds
    return Protocol(
        rounds=rounds,
        threads=torch.get_num_threads() if options.threads is None else options.threads,
        device=device,
        fused=options.fused or options.preset == "gpu",
        bf16=options.bf16 or options.preset == "gpu",
        compiled=options.compiled or options.preset == "gpu",
        memory=options.memory,
        min_seconds=options.min_seconds,
    )


def _say(line: str) -> None:
    print(f"weightcast: {line}", file=sys.stderr, flush=True)
