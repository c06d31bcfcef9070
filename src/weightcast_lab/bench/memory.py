"""Peak memory of a training step, measured in a process of its own.

``python -m weightcast_lab.bench.memory CASE BATCH CONTENDER --device cpu --threads 2`` prints it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from weightcast_lab.bench.scripts import run_module

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

MEBIBYTE = 2**20

OPTIONS = ("fused", "bf16", "compiled")
"""Of a training step, as options without a value."""


def peak_mebibytes(
    make: Callable[[], Callable[[], Any]], device: torch.device | str = "cpu"
) -> float:
    """MiB that a network and two of its training steps (on CUDA three) add to this process.

    Inputs, weights, static parts, gradients, optimiser state and activations count; building does
    not, for it is over before. On the CPU this is resident memory (Linux), on CUDA what torch
    allocates.

    Args:
        make: builds the network and returns its training step; called twice, for what the
            libraries allocate for themselves is not to count.
        device: where the step runs.

    Raises:
        ValueError: a CPU whose memory cannot be read this way.
    """
    if torch.device(device).type == "cuda":
        make()()
        torch.compiler.reset()  # a graph keeps its memory
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        step = make()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):  # compiled: it warms up, is captured as a graph, is replayed
            step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    if not can_measure(device):
        raise ValueError(f"there is no {CLEAR} here: peak memory on the CPU is read on Linux only")
    make()()
    _release()
    before = _resident("VmRSS")
    step = make()
    start_peak()
    step()
    step()
    return _resident("VmHWM") - before


def can_measure(device: torch.device | str) -> bool:
    """Whether peak memory can be measured on this device of this machine."""
    return torch.device(device).type == "cuda" or (CLEAR.exists() and os.access(CLEAR, os.W_OK))


def start_peak() -> None:
    """Let :func:`peak_since` start anew, where it can be read."""
    _release()
    if can_measure("cpu"):
        CLEAR.write_text("5")


def peak_since() -> float | None:
    """The most MiB that this process held at a time since :func:`start_peak`, all it holds."""
    return _resident("VmHWM") if can_measure("cpu") else None


def peak_in_child(arguments: Sequence[str]) -> float:
    """The same in a fresh process, which nothing measured earlier has touched.

    Args:
        arguments: of this module's command line.

    Raises:
        RuntimeError: the process failed; the message has its last line.
    """
    return float(run_module(__name__, *arguments).split()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one contender and print the MiB."""
    # Here: block imports this module.
    from weightcast_lab.bench.cases import find_case
    from weightcast_lab.bench.contenders import Contender, build
    from weightcast_lab.bench.protocol import training_step

    parser = argparse.ArgumentParser("weightcast_lab.bench.memory")
    parser.add_argument("case")
    parser.add_argument("batch", type=int)
    parser.add_argument("contender", type=Contender.from_json, help="JSON, as Contender.to_json()")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    for name in OPTIONS:
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    case = find_case(options.case)

    def make() -> Callable[[], Any]:
        model, _ = build(case, options.contender, options.device)
        x = case.inputs(options.batch, options.device)
        chosen = {name: getattr(options, name) for name in OPTIONS}
        return training_step(case, model, x, **chosen).step

    print(peak_mebibytes(make, options.device))


def _resident(entry: str) -> float:
    """MiB: VmRSS is now, VmHWM the largest since the peak was cleared."""
    return int(STATUS.read_text().split(f"{entry}:")[1].split()[0]) / 1024


def _release() -> None:
    """Give back what is free: the allocator keeps it otherwise, and a peak would not show."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
