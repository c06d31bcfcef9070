"""How the reference networks are drawn: from a seed of their own, in sizes that make sense."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def check_sizes(*sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: one is.
    """
    if min(sizes) < 1:
        raise ValueError(f"a size is {min(sizes)}: images, layers and classes need 1 or more")


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from ``seed``, and leave the caller's random state as it was.

    Args:
        seed: None draws from torch's global generator, as torch does.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
