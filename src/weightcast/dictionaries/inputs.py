"""InputStatistics: what a data-driven dictionary may know about a layer and its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Need = Literal["covariance", "squared_covariance", "sample", "weight"]
"""Names of the statistics that a dictionary can ask for."""


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the rows x that a layer multiplies by W, in float64.

    Args:
        n_rows: number of rows used; a convolution has one per output position, thinned where they
            are very many.
        covariance: (n_visible, n_visible), cov(x).
        squared_covariance: (n_visible, n_visible), cov(x**2), elementwise square first.
        sample: (n_sample, n_visible), rows drawn uniformly from those seen.
        weight: (n_visible, n_units), W of the dense layer itself, for atoms made from trained
            weights.
    """

    n_rows: int
    covariance: Tensor | None = None
    squared_covariance: Tensor | None = None
    sample: Tensor | None = None
    weight: Tensor | None = None
