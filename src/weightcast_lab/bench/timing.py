"""Timing: variants in turn in one process, and ratios formed round by round."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Action = Callable[[], Any]

MIN_SECONDS = 0.1
"""What one timing lasts at least: shorter ones measure the clock and the scheduler."""

WARM_UP = 2
"""Rounds before those that count: memory is allocated, kernels are chosen."""


@dataclass(frozen=True)
class Spread:
    """A quantity measured several times.

    Args:
        n: how often.
        median: of the values.
        low: the smallest.
        high: the largest.
    """

    n: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values.

        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("there is nothing to summarise: measure at least 1 round")
        return cls(len(values), statistics.median(values), min(values), max(values))


def alternate(
    actions: Mapping[str, Action],
    rounds: int,
    *,
    min_seconds: float = MIN_SECONDS,
    device: torch.device | str = "cpu",
    warm_up: int = WARM_UP,
) -> dict[str, list[float]]:
    """Time all actions once per round, one after the other: A B C, C B A, A B C, ...

    A slow moment of the machine then meets all of them, and so does whatever one action leaves
    behind for the next. A short action is repeated within its turn, so that each timing lasts at
    least ``min_seconds``.

    Args:
        actions: by name; each is what is to be timed.
        rounds: that count.
        min_seconds: of one timing.
        device: whose clock to read.
        warm_up: rounds before, at least 1; the last of them says how often to repeat.

    Returns:
        For each action, the seconds of a single repetition in every round.

    Raises:
        ValueError: fewer than 1 round, or a length of time that is no positive number.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: measure at least 1, and 7 for what you report")
    if not 0 < min_seconds < math.inf:
        raise ValueError(f"min_seconds is {min_seconds}: it must be above 0, for example 0.02")
    clock = _cuda_seconds if torch.device(device).type == "cuda" else _seconds
    repeats = dict.fromkeys(actions, 1)
    taken: dict[str, list[float]] = {name: [] for name in actions}
    gc.collect()
    gc.freeze()  # all that is there now need not be looked at in every round
    try:
        for number in range(-max(1, warm_up), rounds):
            gc.collect()  # here, and not while something is timed
            for name, action in list(actions.items())[:: 1 if number % 2 == 0 else -1]:
                seconds = clock(action, repeats[name]) / repeats[name]
                if number >= 0:
                    taken[name].append(seconds)
                else:
                    repeats[name] = max(1, math.ceil(min_seconds / max(seconds, 1e-9)))
    finally:
        gc.unfreeze()
    return taken


def ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Time over the baseline's, round by round.

    Args:
        seconds: one per round.
        baseline: of the same rounds.

    Raises:
        ValueError: numbers of rounds that differ, or none.
    """
    if len(seconds) != len(baseline):
        raise ValueError(
            f"{len(seconds)} rounds against {len(baseline)} of the baseline: ratios are formed "
            "round by round"
        )
    return Spread.of([a / b for a, b in zip(seconds, baseline, strict=True)])


def _seconds(action: Action, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return time.perf_counter() - start


def _cuda_seconds(action: Action, repeats: int) -> float:
    """The device's own time, from its first to its last operation."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(repeats):
        action()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3
