"""A block: contenders measured side by side with the dense network, and their rows."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.storage import checkpoint_bytes
from weightcast.transform.convert import merge
from weightcast_lab.bench.cases import Case, find_case
from weightcast_lab.bench.contenders import (
    DENSE,
    PREDICTED,
    Contender,
    build,
    counted_path,
    force_path,
)
from weightcast_lab.bench.counts import count
from weightcast_lab.bench.memory import OPTIONS, can_measure, peak_in_child
from weightcast_lab.bench.peers import learned_weights
from weightcast_lab.bench.protocol import Protocol, TrainingStep, forward_pass, training_step
from weightcast_lab.bench.timing import Spread, alternate, ratios
from weightcast_lab.sweeps.rows import Row, make_row

EXPERIMENT = "bench"
MERGED = "merged"

Say = Callable[[str], None]
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class BenchBlock:
    """What is timed in the same rounds.

    Args:
        case: the dense network.
        batch: examples per step.
        contenders: beside the dense network; those that are predicted differ in their path only.
        rival: a predicted network that peers are compared with in the same rounds; it gets no row.
    """

    case: Case
    batch: int
    contenders: tuple[Contender, ...]
    rival: Contender | None = None

    @property
    def label(self) -> str:
        """What progress calls it."""
        names = ", ".join(dict.fromkeys(c.label.rpartition(", ")[0] for c in self.contenders))
        return f"{self.case.name}, batch {self.batch}: {names}"

    def config(self, contender: Contender, protocol: Protocol) -> dict[str, Any]:
        """A contender's row's configuration: all that decides what is measured."""
        against = {} if self.rival is None else {"rival": self.rival.label}
        own = contender.to_dict()
        return {
            "layer": self.case.name,
            "batch": self.batch,
            **own,
            **against,
            **protocol.to_dict(),
        }

    def variant(self, contender: Contender) -> str:
        """What a contender's row is called."""
        return f"{self.case.name}, batch {self.batch}, {contender.label}"


@dataclass
class Built:
    """A contender, ready to be measured."""

    model: nn.Module
    build_seconds: float
    training: TrainingStep


def measure(
    block: BenchBlock, protocol: Protocol, say: Say = lambda _: None, seed: int = 0
) -> list[Row]:
    """Measure a block.

    Args:
        block: what is measured side by side.
        protocol: how.
        say: what to do with a message to the user, such as that a measurement failed.
        seed: of weights, atoms and inputs.

    Returns:
        A row for each contender; its ratios are to the dense network in the same rounds.

    Raises:
        ValueError: what cannot be built.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(protocol.threads)
    try:
        x = block.case.inputs(block.batch, protocol.device, seed)
        built = _build(block, protocol, x, seed)
        with protocol.compiling():
            training = _time_training(block, built, protocol)
        inference = {} if protocol.compiled else _time_inference(built, x, protocol)
        peaks = _peaks(block, protocol, say)
        rows = []
        for contender in block.contenders:
            name = contender.label
            peak = {
                "peak_mebibytes": peaks.get(name), "dense_peak_mebibytes": peaks.get(DENSE)
            }  # fmt: skip
            metrics = inference.get(name, {}) | training[name] | peak
            rows.append(_row(block, protocol, contender, built, metrics, x, seed))
        return rows
    finally:
        torch.set_num_threads(before)
        gc.collect()


def _build(block: BenchBlock, protocol: Protocol, x: Tensor, seed: int) -> dict[str, Built]:
    """Every contender by its label; predicted networks of other paths are copies of the first."""
    built: dict[str, Built] = {}
    first: Built | None = None
    rivals = () if block.rival is None else (block.rival,)
    for contender in (Contender(), *rivals, *block.contenders):
        if contender.kind == PREDICTED and first is not None:
            model, seconds = copy.deepcopy(first.model), first.build_seconds
            force_path(model, contender.path or "auto")
        else:
            model, seconds = build(block.case, contender, protocol.device, seed)
        step = training_step(
            block.case, model, x, fused=protocol.fused, bf16=protocol.bf16,
            compiled=protocol.compiled,
        )  # fmt: skip
        one = built[contender.label] = Built(model, seconds, step)
        if contender.kind == PREDICTED:
            first = first or one
    return built


def _time_training(
    block: BenchBlock, built: Mapping[str, Built], protocol: Protocol
) -> dict[str, Metrics]:
    seconds = _alternate({name: one.training.step for name, one in built.items()}, protocol)
    found = {name: _timed("", taken, seconds[DENSE]) for name, taken in seconds.items()}
    if block.rival is not None:
        for name, taken in seconds.items():
            over = _timed("rival_", taken, seconds[block.rival.label])
            found[name] |= {k: v for k, v in over.items() if k.startswith("rival_ratio")}
    return found


def _time_inference(
    built: Mapping[str, Built], x: Tensor, protocol: Protocol
) -> dict[str, Metrics]:
    """Forward passes of all, and of the predicted network merged, which stands with ``auto``."""
    passes = {name: forward_pass(one.model, x) for name, one in built.items()}
    auto = next((name for name in built if name.endswith(", auto")), None)
    if auto is not None:
        passes[MERGED] = forward_pass(merge(built[auto].model), x)
    seconds = _alternate(passes, protocol)
    dense = seconds[DENSE]
    found = {name: _timed("inference_", seconds[name], dense) for name in built}
    if auto is not None:
        found[auto] |= _timed("merged_", seconds[MERGED], dense)
    return found


def _alternate(
    actions: Mapping[str, Callable[[], Any]], protocol: Protocol
) -> dict[str, list[float]]:
    return alternate(
        actions, protocol.rounds, min_seconds=protocol.min_seconds, device=protocol.device
    )


def _timed(prefix: str, taken: Sequence[float], baseline: Sequence[float]) -> Metrics:
    ratio = ratios(taken, baseline)
    return {
        "n": ratio.n,
        f"{prefix}milliseconds": 1e3 * Spread.of(taken).median,
        f"dense_{prefix}milliseconds": 1e3 * Spread.of(baseline).median,
        f"{prefix}ratio_median": ratio.median,
        f"{prefix}ratio_min": ratio.low,
        f"{prefix}ratio_max": ratio.high,
    }


def _peaks(block: BenchBlock, protocol: Protocol, say: Say) -> dict[str, float]:
    """MiB by label; of a predicted network's paths only ``auto``, the one that users get."""
    if not (protocol.memory and can_measure(protocol.device)):
        return {}
    if protocol.compiled and protocol.device == "cpu":
        say("no peak memory on the CPU: the compiler's own would be in it")
        return {}
    found = {}
    for contender in (Contender(), *block.contenders):
        if contender.path not in (None, "auto"):
            continue
        try:
            found[contender.label] = _peak(block.case.name, block.batch, contender, protocol)
        except RuntimeError as error:
            say(f"no peak memory of {contender.label}: {error}")
    return found


def _peak(case: str, batch: int, contender: Contender, protocol: Protocol) -> float:
    """MiB in a process of its own; the dense network's is measured once."""
    key = (case, batch, contender, *protocol.to_dict().items())
    if key in _dense_peaks:
        return _dense_peaks[key]
    arguments = [case, str(batch), contender.to_json(), "--device", protocol.device]
    arguments += ["--threads", str(protocol.threads)]
    arguments += [f"--{name}" for name in OPTIONS if getattr(protocol, name)]
    peak = peak_in_child(arguments)
    if contender.kind == DENSE:
        _dense_peaks[key] = peak
    return peak


_dense_peaks: dict[Any, float] = {}


@cache
def _dense_bytes(case: str) -> int:
    """On disk; written once, for these files are large."""
    return checkpoint_bytes(find_case(case).make())


def _row(
    block: BenchBlock, protocol: Protocol, contender: Contender, built: Mapping[str, Built],
    metrics: Metrics, x: Tensor, seed: int,
) -> Row:  # fmt: skip
    one, dense = built[contender.label], built[DENSE]
    counts = {"dense": learned_weights(dense.model), "learned": learned_weights(one.model)}
    metrics = metrics | {
        "optimiser_bytes": one.training.state_bytes,
        "dense_optimiser_bytes": dense.training.state_bytes,
    }
    more: dict[str, Any] = {"cores": os.cpu_count()}
    if contender.kind == PREDICTED:
        counted = count(one.model, x, counted_path(contender.path or "auto"))
        counts |= {"multiply_adds": counted.total, "dense_multiply_adds": counted.dense}
        metrics["build_seconds"] = one.build_seconds
    if contender.path == "auto":
        more["chosen"] = count(one.model, x).choice
        metrics["checkpoint_bytes"] = checkpoint_bytes(one.model.cpu())
        metrics["dense_checkpoint_bytes"] = _dense_bytes(block.case.name)
    row = make_row(
        experiment=EXPERIMENT,
        variant=block.variant(contender),
        dataset="noise",
        seed=seed,
        config=block.config(contender, protocol),
        counts=counts,
        metrics=metrics,
    )
    return row | more
