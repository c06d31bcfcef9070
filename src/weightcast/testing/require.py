"""How a check fails: one sentence that names the subject, the check and the numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def run(subject: str, checks: Mapping[str, Callable[..., None]], *arguments: Any) -> None:
    """Run checks by name; any error becomes an AssertionError that names subject and check."""
    for name, check in checks.items():
        try:
            check(*arguments)
        except Exception as error:
            kind = type(error).__name__
            raised = "" if isinstance(error, AssertionError) else f"it raises {kind}: "
            raise AssertionError(f"{subject}: {name}: {raised}{error}") from error


def require(holds: bool, otherwise: str) -> None:
    """Raise AssertionError with a message; ``assert`` is not there under ``python -O``."""
    if not holds:
        raise AssertionError(otherwise)


def require_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Require one shape, and differences within ``tolerance`` of the largest expected number."""
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


def require_copies(layer: nn.Module, twin: nn.Module, inputs: Sequence[Any]) -> None:
    """Require the same outputs of a layer, its copies, and a twin that loads its state."""
    twin.load_state_dict(layer.state_dict())
    twins = {
        "its deep copy": copy.deepcopy(layer),
        "its pickle": pickle.loads(pickle.dumps(layer)),
        "a layer that loads its state": twin,
    }
    for name, other in twins.items():
        require_close(other(*inputs), layer(*inputs), 0, f"the output of {name}")
