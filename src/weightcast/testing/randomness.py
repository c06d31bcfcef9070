"""What a block draws from: the global random states, and generators of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from weightcast.testing.require import require

GENERATOR = "draw from the generator that is given"

Source = tuple[str, str]
"""Kind and seed of a generator."""

_STATES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[int], Any]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state, torch.manual_seed),
    "NumPy": (np.random.get_state, np.random.set_state, np.random.seed),
    "Python": (random.getstate, random.setstate, random.seed),
}
"""Whose global random state it is, to how it is read, written and seeded."""

_OTHER_SEED = 987_654_321


@contextmanager
def unmoved_randomness(remedy: str = GENERATOR) -> Iterator[None]:
    """A block that must leave the global random state of torch, NumPy and Python alone."""
    before = {name: read() for name, (read, _, _) in _STATES.items()}
    yield
    for name, (read, _, _) in _STATES.items():
        # One tensor, or a tuple of arrays and numbers.
        parts = [(s,) if isinstance(s, torch.Tensor) else s for s in (read(), before[name])]
        same = all(map(np.array_equal, *parts))
        require(same, f"{name}'s global random state moved: {remedy}")


@contextmanager
def other_surroundings() -> Iterator[None]:
    """Another global random state, default dtype and number of threads, for a block's time."""
    before = {name: read() for name, (read, _, _) in _STATES.items()}
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        torch.set_default_dtype(torch.float64)
        for _, _, seed in _STATES.values():
            seed(123)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        for name, (_, write, _) in _STATES.items():
            write(before[name])


@contextmanager
def watched_generators(
    given: torch.Generator, reseeded: AbstractSet[Source] = frozenset()
) -> Iterator[set[Source]]:
    """Note the generators other than ``given`` that a block draws from, while it runs.

    These are the generators of torch's operations, and those that ``np.random.default_rng`` and
    ``RandomState`` make; others are not seen. Those in ``reseeded`` get another seed, to show
    whether anything depends on them.
    """
    seen: set[Source] = set()
    make = np.random.default_rng

    def noted(kind: str, seed: Any) -> Any:
        source = kind, repr(seed)
        seen.add(source)
        return _OTHER_SEED if source in reseeded else seed

    def default_rng(seed: Any = None) -> np.random.Generator:
        return make(noted("numpy.random.default_rng", seed))

    class RandomState(np.random.RandomState, metaclass=_AsItsBase):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(noted("numpy.random.RandomState", seed))

    with (
        _Draws(given, noted),
        patch.object(np.random, "default_rng", default_rng),
        patch.object(np.random, "RandomState", RandomState),
    ):
        yield seen


class _Draws(TorchDispatchMode):
    """Note the generators, but for ``given``, that torch's operations are called with.

    ``noted`` takes kind and seed, and says which seed to draw from instead.
    """

    def __init__(self, given: torch.Generator, noted: Callable[[str, int], int]) -> None:
        super().__init__()
        self.given, self.noted = given, noted
        self.others: dict[int, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = {name: self._generator(one) for name, one in (kwargs or {}).items()}
        return func(*map(self._generator, args), **named)

    def _generator(self, one: Any) -> Any:
        """What to take in place of an argument."""
        if not isinstance(one, torch.Generator) or one is self.given:
            return one
        seed = one.initial_seed()
        other = self.noted("torch.Generator", seed)
        if other == seed:
            return one
        return self.others.setdefault(seed, torch.Generator().manual_seed(other))


class _AsItsBase(type):
    """The class of a class that stands in for its base: the base's instances count as its own."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__bases__)
