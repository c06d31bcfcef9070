"""How a check fails: one sentence that names the subject, the check and the numbers."""

from __future__ import annotations

from collections.abc import Callable

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
    except Exception as error:
        raised = "" if isinstance(error, AssertionError) else f"it raises {type(error).__name__}: "
        raise AssertionError(f"{subject}: {name}: {raised}{error}") from error


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
    shape, wanted = tuple(found.shape), tuple(expected.shape)
    require(shape == wanted, f"{what} is {shape}, expected {wanted}")
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


def require_same_indices(found: Tensor, expected: Tensor, than: str = "") -> None:
    """Indices of one shape that are all equal; ``than`` ends the message."""
    different = int((found != expected).sum())
    require(different == 0, f"{different} of {expected.numel()} indices differ{than}")
