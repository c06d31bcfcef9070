"""Time a training step of predicted networks against the dense one, in turn, in one process.

    python -m benchmarks.training_step --rounds 9 --rows results/training_step.jsonl

A step is forward, loss, backward and AdamW on the same batches. Every round times every variant
once; ratios are formed round by round, so that a slow moment of the machine meets all variants.
Peak memory is measured for each variant in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import weightcast as wc
from weightcast.training import mlp

BATCH, N_BATCHES = 100, 20


def predicted(fraction: float, columns: int) -> nn.Module:
    """The MLP of the demo with both hidden layers predicted."""
    dictionaries = wc.dictionaries
    kernel = dictionaries.Kernel(wc.kernels.SquaredExponential(2.0))
    plan = {
        "hidden1": wc.Rule(kernel, fraction, columns, grid=(28, 28)),
        "hidden2": wc.Rule(dictionaries.DCT(), fraction, columns, grid=(20, 25)),
    }
    return wc.convert(mlp(), plan)


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "dense": mlp,
    "5 % learned, 10 columns": lambda: predicted(0.05, 10),
    "5 % learned, 20 columns": lambda: predicted(0.05, 20),
    "2 % learned, 20 columns": lambda: predicted(0.02, 20),
    "narrow dense 784-46-46-10": lambda: mlp(hidden=(46, 46)),
}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.rand(BATCH, 1, 28, 28, generator=generator),
            torch.randint(10, (BATCH,), generator=generator),
        )
        for _ in range(N_BATCHES)
    ]


def make_epoch(build: Callable[[], nn.Module]) -> Callable[[], float]:
    """A function that trains over all batches once and returns the seconds of one step."""
    torch.manual_seed(0)
    model, data = build(), batches()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def epoch() -> float:
        start = time.perf_counter()
        for x, y in data:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        return (time.perf_counter() - start) / len(data)

    return epoch


def peak_mebibytes(variant: str) -> float:
    """Peak resident memory of a process that trains one variant for one round."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--memory-of", variant]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="alternations (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--rows", type=Path, help="append result rows to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        epoch = make_epoch(VARIANTS[arguments.memory_of])
        epoch()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    epochs = {name: make_epoch(build) for name, build in VARIANTS.items()}
    for epoch in epochs.values():
        epoch()  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(arguments.rounds):
        for name, epoch in epochs.items():
            seconds[name].append(epoch())
    print(f"{'variant':28} {'ms/step':>8} {'ratio to dense: median (min-max)':>34} {'peak MiB':>9}")
    for name, times in seconds.items():
        ratios = [t / dense for t, dense in zip(times, seconds["dense"], strict=True)]
        row = {
            "schema": 1,
            "experiment": "training_step",
            "variant": name,
            "n": len(ratios),
            "threads": arguments.threads,
            "milliseconds": statistics.median(times) * 1e3,
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "peak_mebibytes": peak_mebibytes(name),
            "torch": torch.__version__,
        }
        spread = f"{row['ratio_median']:.3f} ({row['ratio_min']:.3f}-{row['ratio_max']:.3f})"
        print(f"{name:28} {row['milliseconds']:8.3f} {spread:>34} {row['peak_mebibytes']:9.1f}")
        if arguments.rows:
            arguments.rows.parent.mkdir(parents=True, exist_ok=True)
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
