"""Equations of many units, each at places of its own, solved side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weightcast.dictionaries.inverse import times_inverse

_ACCURACY = 1e-7  # of the normal equations, relative to their right side
_REFINEMENTS = 4  # after which a unit is solved by a decomposition
_HELD = 2**21  # numbers of the matrices that are solved at once
_WIDE, _MANY = 512, 32  # places, and others, and rows, of which equations are solved step by step
_NEAR = 1e-4  # these equations' accuracy: a hundred thousandth more of the loss, and less
_STEPS, _EXPECTED = 200, 50
_ROWS = 256  # that are taken step by step side by side


def solve_at(gram: Tensor, products: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Solve gram x = product at each row's own places, where x alone is not zero.

    By Cholesky in float32, some rows at a time; what that leaves is computed in float64 and solved
    again, until it is below 1e-7 of the products. Of 32 rows or more with more than 512 places, a
    quarter of all, and as many others, factors take longest: by conjugate gradients, to 1e-4.

    Args:
        gram: (n, n) float64, symmetric.
        products: (rows, n) float64.
        places: (rows, n_atoms), integers.

    Returns:
        x at the places, (rows, n_atoms), and the rows that failed, where a place comes twice or
        its equations are too dependent.
    """
    n = len(gram)
    n_atoms = min(places.shape[1], n - places.shape[1])
    if n_atoms > max(_WIDE, n // 4) and len(places) >= _MANY:
        found = _step_by_step(gram, products, places)
        if found is not None:
            return found
    wanted = products.gather(1, places)
    x, failed = torch.zeros_like(wanted), torch.ones(len(places), dtype=torch.bool)
    small = _ACCURACY * wanted.norm(dim=1)
    inverses = _Inverses(gram, places)
    for first in range(0, len(places), inverses.step):
        part = slice(first, first + inverses.step)
        own, inverse = places[part], inverses.of(part)
        rest = wanted[part]
        for _ in range(_REFINEMENTS):
            scale = rest.norm(dim=1, keepdim=True).clamp_min(1e-300)
            x[part] += scale * inverse((rest / scale).float())
            rest = wanted[part] - (spread(x[part], own, n) @ gram).gather(1, own)
            failed[part] = ~(rest.norm(dim=1) <= small[part])  # NaN is no success
            if not bool(failed[part].any()):
                break
    return x, failed


class _Inverses:
    """The inverses of a matrix at each row's places, in float32.

    A row with more than half of all places is solved by the inverse of the whole matrix and that
    of this inverse at the other places (the multipliers that hold x at zero there).
    """

    def __init__(self, gram: Tensor, places: Tensor) -> None:
        self.places, self.at, self.n, self.whole = places, places, len(gram), None
        self.matrix = gram.float()
        absent = torch.ones(len(places), self.n, dtype=torch.bool).scatter_(1, places, False)
        n_others = self.n - places.shape[1]
        if n_others < places.shape[1] and bool((absent.sum(dim=1) == n_others).all()):
            root, failed = torch.linalg.cholesky_ex(self.matrix)
            if not failed:
                self.matrix = self.whole = torch.cholesky_solve(
                    torch.eye(self.n, dtype=root.dtype), root
                )
                self.at = absent.nonzero()[:, 1].view(len(places), n_others)
        self.step = max(1, _HELD // max(1, self.at.shape[1]) ** 2)
        """Rows that are solved at once."""

    def of(self, part: slice) -> Callable[[Tensor], Tensor]:
        """What solves for right sides at the places of some rows, (rows, n_atoms)."""
        at, own = self.at[part], self.places[part]
        parts = [self.matrix.index_select(0, row).index_select(1, row) for row in at]
        root, _ = torch.linalg.cholesky_ex(torch.stack(parts))

        def direct(right: Tensor) -> Tensor:
            return torch.cholesky_solve(right.unsqueeze(2), root).squeeze(2)

        def by_others(right: Tensor) -> Tensor:
            free = spread(right, own, self.n) @ self.matrix
            held = spread(direct(free.gather(1, at)), at, self.n) @ self.matrix
            return (free - held).gather(1, own)

        return direct if self.whole is None else by_others


def _step_by_step(gram: Tensor, products: Tensor, places: Tensor) -> tuple[Tensor, Tensor] | None:
    """As :func:`solve_at`, by conjugate gradients; None if the matrix is not positive definite.

    Each step multiplies all rows by the matrix, and by the inverse of all of it, which makes 20 to
    100 steps enough: 4 n^2 multiply-adds for each row and step; its factor takes n_atoms^3 / 3.
    """
    sizes = gram.diagonal().sqrt()
    K = (gram / sizes / sizes.unsqueeze(1)).float()
    root, bad = torch.linalg.cholesky_ex(K)
    if bad:
        return None
    solve = times_inverse(root, _EXPECTED * len(places))
    x, failed = torch.empty(places.shape, dtype=gram.dtype), []
    for own, right, values in zip(*(t.split(_ROWS) for t in (places, products, x)), strict=True):
        mask = K.new_zeros(len(own), len(K)).scatter_(1, own, 1.0)
        wanted = (right / sizes).float() * mask
        y, left = _conjugate_gradients(K, solve, wanted, mask)
        values.copy_((y / sizes).gather(1, own))
        twice = mask.sum(dim=1) < own.shape[1]
        failed.append(~(left <= 10 * _NEAR * wanted.norm(dim=1)) | twice)
    return x, torch.cat(failed)


def _conjugate_gradients(
    K: Tensor, solve: Callable[[Tensor], Tensor], wanted: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """y with (y K) mask = wanted, zero outside the mask, and the norms of what is left.

    References: Hestenes and Stiefel 1952; Meng et al. 2024 solve a pruned layer so.
    """
    y, rest = torch.zeros_like(wanted), wanted
    direction = step = solve(rest).mul_(mask)
    energy = (rest * step).sum(dim=1, keepdim=True)
    enough = _NEAR * wanted.norm(dim=1)
    for _ in range(_STEPS):
        moved = (direction @ K).mul_(mask)
        length = energy / (direction * moved).sum(dim=1, keepdim=True).clamp_min(1e-30)
        y, rest = y.addcmul(length, direction), rest.addcmul(length, moved, value=-1)
        if bool((rest.norm(dim=1) <= enough).all()):
            break
        step = solve(rest).mul_(mask)
        before, energy = energy, (rest * step).sum(dim=1, keepdim=True)
        direction = step.addcmul(energy / before.clamp_min(1e-30), direction)
    return y, (wanted - (y @ K).mul_(mask)).norm(dim=1)


def spread(values: Tensor, places: Tensor, n: int) -> Tensor:
    """(rows, n): values at their places, added where one comes twice, and zeros."""
    return values.new_zeros(len(values), n).scatter_add_(1, places, values)
