"""Spectra: eigenvectors that are the same on every machine, and the leading ones as atoms."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from weightcast.dictionaries.input_site import Site
from weightcast.dictionaries.operators import DenseBase
from weightcast.dictionaries.selection import deal_leading


def eigenvectors(K: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """(n,) eigenvalues, not below zero, and (n, n) eigenvectors of a symmetric K, largest first.

    Large K with ``most`` of at most a quarter: of these alone, or more, in a third of the time.
    Eigenvectors are determined up to sign, and within the space of equal eigenvalues (which a
    square grid always has) up to rotation; what ``eigh`` returns there depends on the number of
    threads. Here such a space's basis is the one that diagonalises a fixed matrix, and each vector
    has a positive product with a fixed one. (Its largest entry would not settle the sign: an
    antisymmetric vector has two, of either sign.)
    """
    n = len(K)
    if most is not None and n >= 512 and 4 * most <= n:  # one more shows if it cuts equal values
        from scipy.linalg import eigh

        values, vectors = map(torch.from_numpy, eigh(K, subset_by_index=(n - most - 1, n - 1)))
    else:
        values, vectors = torch.linalg.eigh(K)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    # Equal up to rounding: relative to each other, and to what eigh resolves at all.
    closeness = 1e-8 * values[:-1] + 1e-14 * n * values[0]
    starts = torch.cat([values.new_ones(1), (values[:-1] - values[1:] > closeness).double()])
    if len(values) < n and not starts[-1]:
        return eigenvectors(K)
    fixed = torch.sin(12.9898 * torch.arange(1, n + 1, dtype=K.dtype)).unsqueeze(1)
    borders = [*starts.nonzero().flatten().tolist(), len(values)]
    for first, last in itertools.pairwise(borders):
        if last - first > 1:
            space = vectors[:, first:last]
            basis = torch.linalg.eigh(space.t() @ (fixed * space)).eigenvectors
            vectors[:, first:last] = space @ basis
    return values, vectors * (fixed * vectors).sum(dim=0).sign()


def leading_atoms(vectors: Tensor, site: Site) -> tuple[DenseBase, Tensor]:
    """A base of the leading ``vectors``, and the (columns, n_atoms) the site takes."""
    kept = min(vectors.shape[1], site.columns * site.n_atoms)
    indices = site.choose(lambda: deal_leading(torch.arange(kept), site.n_atoms, site.columns))
    return DenseBase(vectors[:, :kept].t()), indices
