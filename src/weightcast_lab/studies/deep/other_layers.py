"""Linear layers that others train with few learned weights from scratch, each as its paper says.

As many weights are learned in each as a share of the dense layer's; biases are learned besides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.dictionaries import LowRank

SPARSE = 0.03
"""The share of the dense weights that SLTrain learns as a sparse matrix (Han et al. 2024)."""


class LowRankActivation(nn.Module):
    """y = B silu(A x) + b: CoLA. What follows the layer, a non-linearity too, stays.

    Args:
        dense: the layer that it replaces, of whose sizes it is; its bias is taken over.
        fraction: of the dense layer's weights that A and B have together.

    References: Liu et al. 2025, *CoLA: Compute-efficient pre-training of LLMs via low-rank
    activation*; the scale of the first draw is that of the authors' published code.
    """

    def __init__(self, dense: nn.Linear, fraction: float) -> None:
        super().__init__()
        n_visible, n_units = dense.in_features, dense.out_features
        rank = rank_for(fraction, n_visible, n_units)
        scale = (n_visible + n_units) ** -0.25 * rank**-0.25
        self.A = nn.Parameter(torch.randn(rank, n_visible) * scale)
        self.B = nn.Parameter(torch.randn(n_units, rank) * scale)
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_visible) to (..., n_units)."""
        return F.linear(F.silu(F.linear(x, self.A)), self.B, self.bias)


class SparsePlusLowRank(nn.Module):
    """y = (B A / rank + S) x + b: SLTrain. S is not zero at places that are drawn and stay.

    Args:
        dense: the layer that it replaces, of whose sizes it is; its bias is taken over.
        fraction: of the dense layer's weights that A, B and S have together, above ``SPARSE``.
        alpha: B A is divided by the rank and multiplied by this.

    Raises:
        ValueError: a fraction that leaves nothing for A and B.

    References: Han et al. 2024, *SLTrain: a sparse plus low-rank approach for parameter and memory
    efficient pretraining*, section 3: A as Kaiming, B zero, S uniform within 1 / sqrt(n_visible).
    """

    places: Tensor

    def __init__(self, dense: nn.Linear, fraction: float, alpha: float = 16.0) -> None:
        super().__init__()
        if fraction <= SPARSE:
            raise ValueError(f"fraction is {fraction}: SLTrain needs more than {SPARSE}")
        n_visible, n_units = dense.in_features, dense.out_features
        rank = rank_for(fraction - SPARSE, n_visible, n_units)
        self.scale, width = alpha / rank, n_visible**-0.5
        self.A = nn.Parameter(torch.empty(rank, n_visible))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(n_units, rank))
        n_sparse = round(SPARSE * n_visible * n_units)
        self.S = nn.Parameter(torch.empty(n_sparse).uniform_(-width, width))
        self.register_buffer("places", torch.randperm(n_visible * n_units)[:n_sparse])
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_visible) to (..., n_units)."""
        W = (self.scale * (self.B @ self.A)).flatten().index_add(0, self.places, self.S)
        return F.linear(x, W.view(len(self.B), -1), self.bias)


def rank_for(fraction: float, n_visible: int, n_units: int) -> int:
    """The rank of two factors with a share of a matrix's weights, rounded, at least 1."""
    return round(LowRank.matching_fraction(fraction, n_visible, n_units) * n_visible)
