"""Time a training step of the demo's networks against the dense one, in turn, in one process.

    python -m weightcast_lab.bench.training_step --rows results/training_step.jsonl

A step is forward, loss, backward and AdamW on the same batches of 100 images. Every round times
every network once; ratios are formed round by round, so that a slow moment of the machine meets
all of them. Memory is what training one network adds to a process of its own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import weightcast as wc
from weightcast_lab.bench.memory import peak_mebibytes
from weightcast_lab.bench.scripts import make_parser, run_module
from weightcast_lab.bench.timing import alternate, ratios
from weightcast_lab.sweeps.rows import append_row
from weightcast_lab.sweeps.variants import Variant, make_config, make_variants
from weightcast_lab.training import Images, TrainingSettings
from weightcast_lab.training.build import build_model

BATCH, N_BATCHES = 100, 20


def noise() -> Images:
    """As many images as one round takes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH * N_BATCHES, 1, 28, 28, generator=generator)
    y = torch.arange(len(x)) % 10
    return Images("noise", (x, y), None, (x[:BATCH], y[:BATCH]), 10)


def make_round(variant: Variant, images: Images, fused: bool) -> Callable[[], None]:
    """A function that trains on all batches once."""
    settings = TrainingSettings()
    model = build_model(make_config(variant, "digits", settings, seed=0), images)
    groups = wc.parameter_groups(model, settings.learning_rate, settings.weight_decay)
    optimiser = torch.optim.AdamW(groups, fused=fused)
    x, y = images.train
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))[:N_BATCHES]

    def train_once() -> None:
        for images, labels in batches:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()

    return train_once


def peak_of(variant: Variant, threads: int, fused: bool) -> float:
    """MiB that training adds to a process, measured in one of its own."""
    arguments = ["--memory-of", variant.name, "--threads", str(threads)]
    module = "weightcast_lab.bench.training_step"
    return float(run_module(module, *arguments, *(["--fused"] if fused else [])))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="alternations (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--fused", action="store_true", help="AdamW's fused kernel")
    parser.add_argument("--rows", type=Path, help="append result rows to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Time all networks in turn, print a table and append rows."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    images = noise()  # its values do not matter here, and reading digits would hide the peak
    variants = {variant.name: variant for variant in make_variants(images)}
    if arguments.memory_of:
        variant = variants[arguments.memory_of]
        print(peak_mebibytes(lambda: make_round(variant, images, arguments.fused)))
        return
    rounds = {name: make_round(v, images, arguments.fused) for name, v in variants.items()}
    timed = alternate(rounds, arguments.rounds)
    seconds = {name: [taken / N_BATCHES for taken in times] for name, times in timed.items()}
    print(f"{'network':26} {'ms/step':>8} {'ratio to dense: median (min-max)':>34} {'peak MiB':>9}")
    for name, times in seconds.items():
        ratio = ratios(times, seconds["dense"])
        row = {
            "schema": 1,
            "experiment": "training_step",
            "variant": name,
            "config": {"threads": arguments.threads, "fused": arguments.fused, "batch": BATCH},
            "metrics": {
                "n": ratio.n,
                "milliseconds": statistics.median(times) * 1e3,
                "ratio_median": ratio.median,
                "ratio_min": ratio.low,
                "ratio_max": ratio.high,
                "peak_mebibytes": peak_of(variants[name], arguments.threads, arguments.fused),
            },
            "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        }
        metrics = row["metrics"]
        spread = "{ratio_median:.3f} ({ratio_min:.3f}-{ratio_max:.3f})".format(**metrics)
        milliseconds, peak = metrics["milliseconds"], metrics["peak_mebibytes"]
        print(f"{name:26} {milliseconds:8.3f} {spread:>34} {peak:9.1f}")
        if arguments.rows:
            append_row(arguments.rows, row)


if __name__ == "__main__":
    main()
