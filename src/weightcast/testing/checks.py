"""How a check fails: one sentence that names the subject, the check and the numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def run(subject: str, check: Callable[[], None], name: str) -> None:
    """Run one check.

    Args:
        subject: what is checked, as a user would write it.
        check: raises AssertionError where it fails; any other error is a failure too.
        name: what must hold, as a sentence.

    Raises:
        AssertionError: naming subject and check.
    """
    try:
        check()
    except AssertionError as error:
        raise AssertionError(f"{subject}: {name}: {error}") from error
    except Exception as error:
        raise AssertionError(
            f"{subject}: {name}: it raises {type(error).__name__}: {error}"
        ) from error


def require(holds: bool, otherwise: str) -> None:
    """Raise AssertionError with a message; ``assert`` is not there under ``python -O``."""
    if not holds:
        raise AssertionError(otherwise)


def require_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Two tensors of one shape whose largest difference is small beside the expected numbers.

    Args:
        found: any shape and floating-point type.
        expected: what it should be.
        tolerance: share of the largest expected number.
        what: how the message names ``found``.

    Raises:
        AssertionError: another shape, or a larger difference.
    """
    require(
        found.shape == expected.shape,
        f"{what} is {tuple(found.shape)}, expected {tuple(expected.shape)}",
    )
    if found.numel() == 0:
        return
    found, expected = found.detach().double(), expected.detach().double()
    difference = float((found - expected).abs().max())
    largest = max(float(expected.abs().max()), torch.finfo(torch.float64).tiny)
    require(  # a NaN is no small difference
        difference <= tolerance * largest,
        f"{what} is off by {difference:.3g}, where the largest number is {largest:.3g} and "
        f"{tolerance:g} of it is allowed",
    )


@contextmanager
def unmoved_randomness() -> Iterator[None]:
    """A block that must leave the global random state of torch, NumPy and Python alone.

    Raises:
        AssertionError: one has moved.
    """
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    yield
    moved = "global random state moved: draw from the generator that is given"
    require(torch.equal(torch.get_rng_state(), before[0]), f"torch's {moved}")
    require(_same(np.random.get_state(), before[1]), f"NumPy's {moved}")
    require(random.getstate() == before[2], f"Python's {moved}")


@contextmanager
def other_surroundings() -> Iterator[None]:
    """Another global random state, default dtype and number of threads, for a block's time."""
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(123)
        np.random.seed(123)
        random.seed(123)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _same(one: object, two: object) -> bool:
    return all(map(np.array_equal, one, two))  # pyright: ignore[reportArgumentType]
