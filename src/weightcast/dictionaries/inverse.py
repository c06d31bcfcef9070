"""Rows times the inverse of a positive definite matrix, the way that takes less time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def times_inverse(root: Tensor, n_rows: int) -> Callable[[Tensor], Tensor]:
    """What gives rows K^-1, for about ``n_rows`` of n numbers in all; K = root root^T.

    Two triangular solutions take up to twice a product with the inverse; to make that takes as long
    as products of 1.5 n rows and more (n from 1,536 to 8,192). ``root`` may be overwritten.
    """
    if n_rows < 3 * len(root):
        return lambda rows: torch.cholesky_solve(rows.mT, root).mT
    # Not cholesky_inverse, which takes ten times as long.
    inverse = torch.cholesky_solve(torch.eye(len(root), dtype=root.dtype), root, out=root)
    return lambda rows: rows @ inverse
