"""SingularVectors: atoms made from trained weights, where those are to be compressed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.input_site import Need, Site
from weightcast.dictionaries.spectra import eigenvectors, leading_atoms

# Of the mean variance, added to all: no direction is divided by 0 or by rounding errors of float32.
_RIDGE = 1e-6


@dataclass(frozen=True)
class SingularVectors(Dictionary):
    """U spans S^-1 E, E the leading left singular vectors of S W, S^T S = cov(x), x the inputs.

    Of all dictionaries with as many atoms this one leaves the least error of the layer's output
    when V is fitted to trained weights; without inputs S = I, and the error is that of the weights.
    The atoms are orthonormal, and are stored with the model: W is needed to build them again.
    """

    needs: ClassVar[tuple[Need, ...]] = ("covariance",)
    from_weight: ClassVar[bool] = True

    def build(self, site: Site) -> Atoms:
        """Singular vectors of the site's weight; see :meth:`Dictionary.build`."""
        check_enough(self, site.n_atoms, site.n_visible)
        W = site.require_weight(self)
        given = site.statistics is not None and site.statistics.covariance is not None
        C = site.require(self, "covariance") if given else None
        kept = min(site.n_visible, site.columns * site.n_atoms)
        return Atoms(*leading_atoms(leading_filters(W, kept, C), site))


def leading_filters(W: Tensor, kept: int, C: Tensor | None = None) -> Tensor:
    """(n_visible, kept) orthonormal: the first k vectors represent W best, for every k.

    Best is the least E|x W - x U V|^2 with C the second moment of x, or |W - U V|^2 with None.
    The decomposition is of the smaller side: of the units where there are fewer than inputs. Then
    the leading W r, r the right singular vectors of S W, span what the left ones do, taken back.
    In float64: eigenvalues are squares of what is sought.
    """
    n_visible, n_units = W.shape
    if kept <= n_units < n_visible:
        gram = W.t() @ (W if C is None else C @ W)
        values, right = eigenvectors((gram + gram.t()) / 2, kept)
        # Beyond W's rank, columns of W r are rounding: then any others would serve as well.
        if kept == 0 or values[kept - 1] > 1e-12 * values[0]:
            return _oriented(torch.linalg.qr(W @ right[:, :kept]).Q)
    if C is None:
        return eigenvectors(W @ W.t(), kept)[1][:, :kept]
    ridge = (float(C.diagonal().mean()) or 1.0) * torch.eye(len(C), dtype=C.dtype)
    root, failed = torch.linalg.cholesky_ex(C + _RIDGE * ridge)
    if failed:  # a few inputs outweigh the rest, of which rounding is left: less than this
        root = torch.linalg.cholesky(C + (_RIDGE + len(C) * 2**-23) * ridge)
    SW = root.mT @ W
    leading = eigenvectors(SW @ SW.t(), kept)[1][:, :kept]
    return torch.linalg.qr(torch.linalg.solve_triangular(root.mT, leading, upper=True)).Q


def _oriented(Q: Tensor) -> Tensor:
    """Orthonormal columns, each of positive product with a fixed vector, as of eigenvectors."""
    fixed = torch.sin(12.9898 * torch.arange(1, len(Q) + 1, dtype=Q.dtype)).unsqueeze(1)
    return Q * (fixed * Q).sum(dim=0).sign()
