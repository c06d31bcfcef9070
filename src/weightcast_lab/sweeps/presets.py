"""Presets: how much of a figure's grid is run, and with how many seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from weightcast.serialization import nearest
from weightcast_lab.sweeps.trial import Trial

Preset = Literal["smoke", "cpu", "full"]
"""A minute or less on packaged data; at most 40 minutes on two cores; the whole grid."""

PRESETS: tuple[Preset, ...] = ("smoke", "cpu", "full")

P = TypeVar("P")


def check_preset(preset: str, seeds: int) -> Preset:
    """The preset, if there is one of this name.

    Args:
        preset: its name.
        seeds: runs of each point.

    Raises:
        ValueError: an unknown preset, or no seeds.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}{nearest(preset, PRESETS)}")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: every point needs at least 1 run")
    return preset


def with_seeds(points: Iterable[P], seeds: int, make: Callable[[P, int], Trial]) -> list[Trial]:
    """A trial of every point with seeds 0, 1, ..., all points of one seed before the next seed.

    Args:
        points: what to run; settings may share some, and each is run once.
        seeds: runs of each.
        make: a point and a seed to a trial.
    """
    points = list(points)
    found = (make(point, seed) for seed in range(seeds) for point in points)
    return list({trial.key: trial for trial in found}.values())
