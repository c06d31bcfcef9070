"""Equations of many units, each at places of its own, solved side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weightcast.dictionaries.inverse import times_inverse

_ACCURACY = 1e-7  # of the normal equations, relative to their right side
_REFINEMENTS = 4  # after which a unit is solved by a decomposition
_HELD = 2**23  # numbers of the matrices that are solved at once
_NEAR = 1e-4  # these equations' accuracy: a hundred thousandth more of the loss, and less
_STEPS, _EXPECTED = 200, 50
_ROWS = 256  # that are taken step by step side by side


def solve_at(
    gram: Tensor, products: Tensor, choices: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Solve gram x = product at each row's own places, where x alone is not zero.

    By Cholesky in float32, some rows at a time; what that leaves is computed in float64 and solved
    again, until it is below 1e-7 of the products. With more than 512 places, more than a quarter of
    all, and as many others, where the factors of all rows take longest, by conjugate gradients,
    until 1e-4 is left; such choices side by side, for the matrix is read as often for one.

    Args:
        gram: (n, n) float64, symmetric.
        products: (rows, n) float64.
        choices: places (rows, n_atoms), integers; each with its own n_atoms.

    Returns:
        Of every choice x at the places, (rows, n_atoms), and the rows that failed, where a place
        comes twice or its equations are too dependent.
    """
    wide = [_is_wide(own.shape[1], len(gram)) for own in choices]
    together = [own for own, steps in zip(choices, wide, strict=True) if steps]
    solved = iter(_step_by_step(gram, products, together) if together else ())
    return [
        (next(solved, None) if steps else None) or _directly(gram, products, own)
        for own, steps in zip(choices, wide, strict=True)
    ]


def _is_wide(n_atoms: int, n: int) -> bool:
    """Whether equations at so many of n places are solved step by step."""
    return min(n_atoms, n - n_atoms) > max(512, n // 4)


def _directly(gram: Tensor, products: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`solve_at`, by Cholesky."""
    n, wanted = len(gram), products.gather(1, places)
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


def _step_by_step(
    gram: Tensor, products: Tensor, choices: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """As :func:`solve_at`, by conjugate gradients; () if the matrix is not positive definite.

    Each step multiplies all rows by the matrix, and by the inverse of all of it, which makes 20 to
    100 steps enough: 4 n^2 multiply-adds for each row and step; its factor takes n_atoms^3 / 3.
    """
    sizes = gram.diagonal().sqrt()
    K = (gram / sizes / sizes.unsqueeze(1)).float()
    root, bad = torch.linalg.cholesky_ex(K)
    if bad:
        return []
    solve = times_inverse(root, _EXPECTED * len(products) * len(choices))
    found = [(products.new_empty(c.shape), torch.ones(len(c), dtype=torch.bool)) for c in choices]
    n_rows = max(1, _ROWS // len(choices))
    for first in range(0, len(products), n_rows):
        part = slice(first, first + n_rows)
        held = (K.new_zeros(len(own[part]), len(K)).scatter_(1, own[part], 1.0) for own in choices)
        mask = torch.cat(list(held))
        wanted = (products[part] / sizes).float().repeat(len(choices), 1) * mask
        y, left = _conjugate_gradients(K, solve, wanted, mask)
        near = left <= 10 * _NEAR * wanted.norm(dim=1)
        ends = zip(*(t.chunk(len(choices)) for t in (y / sizes, near, mask)), strict=True)
        for (x, failed), own, (y, near, mask) in zip(found, choices, ends, strict=True):
            x[part] = y.gather(1, own[part])
            failed[part] = ~near | (mask.sum(dim=1) < own.shape[1])
    return found


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
