"""Small folders, made by hand, whose rules ask for far more work than the folders are worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

import weightcast as wc
from tests.fuzz.corruptions import JSON_NAME, TENSORS_NAME, Files, sealed
from tests.saved_folders import checksum
from weightcast import dictionaries as d
from weightcast import kernels as k

ROUGH = k.Exponential()  # not separable: one matrix for the whole grid


def heavy_folders() -> Iterator[tuple[str, nn.Module, Files]]:
    """What is heavy, the dense model, and the folder for it."""
    square, line = (28, 28), wc.Grid((49,), 128)
    for what, n_visible, n_units, rule in (
        ("a matrix per column", 784, 500, wc.Rule(d.Kernel(), 1.0, 500, square)),
        ("a factorisation per column", 784, 500,
         wc.Rule(d.Kernel(mixing="orthonormal"), 1.0, 100, square)),
        ("a large matrix", 40_000, 2, wc.Rule(d.Kernel(ROUGH, mixing="raw"), 0.001, 1, (200, 200))),
        ("eigenvectors", 4096, 4,
         wc.Rule(d.Kernel(ROUGH, selection="leading"), 0.01, 1, (64, 64))),
        ("wavelets", 6000, 4, wc.Rule(d.Wavelet(), 0.01)),
        ("cosines", 40_000, 2, wc.Rule(d.DCT(), 0.001)),
        ("waves", 40_000, 2, wc.Rule(d.Fourier(), 0.001)),
        ("a window per unit", 1024, 1000, wc.Rule(d.LocalKernel(), 0.01, 1000, 1024)),
        ("a random base", 784, 500, wc.Rule(d.RandomGaussian(), 1.0, 500)),
        ("a learned base", 784, 500, wc.Rule(d.LowRank(), 1.0, 500)),
        ("singular vectors", 2000, 2000, wc.Rule(d.SingularVectors(), 0.01)),
        ("all in one channel", 6272, 8, wc.Rule(d.Kernel(), 0.5, 1, line)),
    ):  # fmt: skip
        yield what, nn.Sequential(nn.Linear(n_visible, n_units)), _folder(rule, n_visible, n_units)
    far = torch.full((1, 627), 49 * 2**29)
    rule = wc.Rule(d.Kernel(), 0.1, 1, line)
    yield "far indices", nn.Sequential(nn.Linear(6272, 8)), _folder(rule, 6272, 8, indices=far)
    rule = wc.Rule(d.Kernel(), 0.5, 10**6, (4, 6))
    indices = torch.zeros(10**6, 12, dtype=torch.uint8)
    yield "many columns", nn.Sequential(nn.Linear(24, 3)), _folder(rule, 24, 3, indices=indices)
    # Factors of a few numbers, whose numbers of atoms multiply.
    yield _wide(
        "a base far too wide", wc.Rule(d.LocalKernel(), 1.0, 500, (2,) * 10), 500, [40] * 10
    )
    many = wc.Rule(d.LocalKernel(), 12 / 784, 16_000, square)
    yield _wide("a base so wide that U is multiplied out", many, 16_000, [5000] * 2)


def _wide(
    what: str, rule: wc.Rule, n_units: int, widths: list[int]
) -> tuple[str, nn.Module, Files]:
    """A Kronecker base with so many atoms along each axis of the grid."""
    grid = wc.Grid.of(rule.grid or 1)
    factors = {
        f"factor_{axis}": torch.ones(width, n)
        for axis, (n, width) in enumerate(zip(grid.shape, widths, strict=True))
    }
    sizes = [list(factor.shape[::-1]) for factor in factors.values()]
    base = {"kind_of_base": "kronecker", "factors": sizes}
    files = _folder(rule, grid.n_visible, n_units, base=base, factors=factors)
    return what, nn.Sequential(nn.Linear(grid.n_visible, n_units)), files


def _folder(
    rule: wc.Rule,
    n_visible: int,
    n_units: int,
    *,
    indices: Tensor | None = None,
    base: dict[str, Any] | None = None,
    factors: dict[str, Tensor] | None = None,
) -> Files:
    """A folder for one linear layer that follows a rule, with checksums that fit."""
    n_atoms = round(rule.fraction * n_visible)
    if indices is None:
        indices = torch.zeros(rule.columns, n_atoms, dtype=torch.uint8)
    tensors = {
        "0.V": torch.zeros(n_atoms, n_units, dtype=torch.float16),
        "0.bias": torch.zeros(n_units),
        "0.atoms.indices": indices,
        **{f"0.atoms.base.{name}": factor for name, factor in (factors or {}).items()},
    }
    layer = {
        "layer": "PredictedLinear",
        "dtype": "float32",
        "n_visible": n_visible,
        "n_units": n_units,
        "learned": (n_atoms + 1) * n_units,
        "base": base,
        "mixed": False,
        "fingerprint": None if base else {"sums": [1.0] * 4, "size": 1.0},
    }
    facts = {
        "schema": 2,
        "versions": {},
        "plan": wc.Plan({"0": rule}).to_dict(),
        "layers": {"0": layer},
        "counts": {},
        "tensors": {name: checksum(tensor) for name, tensor in tensors.items()},
        "ties": {},
    }
    return {JSON_NAME: sealed(facts), TENSORS_NAME: save(tensors)}
