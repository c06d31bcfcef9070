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

# A share of the mean variance, added to all: directions without inputs are not divided by 0.
_RIDGE = 1e-9


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
        return Atoms(*leading_atoms(leading_filters(W, C), site))


def leading_filters(W: Tensor, C: Tensor | None = None) -> Tensor:
    """(n_visible, n_visible) orthonormal: the first k vectors represent W best, for every k.

    Best is the least E|x W - x U V|^2 with C the second moment of x, or |W - U V|^2 with None.
    """
    if C is None:
        return eigenvectors(W @ W.t())[1]
    variance = float(C.diagonal().mean()) or 1.0
    S = torch.linalg.cholesky(C + _RIDGE * variance * torch.eye(len(C), dtype=C.dtype)).mT
    SW = S @ W
    vectors = torch.linalg.solve_triangular(S, eigenvectors(SW @ SW.t())[1], upper=True)
    return torch.linalg.qr(vectors).Q
