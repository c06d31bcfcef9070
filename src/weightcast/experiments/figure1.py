"""Figure 1 of the paper, as data: a trained filter, a few of its weights, and its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Kernel
from weightcast.experiments.rows import SCHEMA
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.predicted import PredictedWeight
from weightcast.rule import Rule
from weightcast.training import Images

FRACTIONS = (0.05, 0.1, 0.25, 0.5)
SHOWN = 0.25  # the share of known weights in the pictures


def figure1(
    trained: nn.Module,
    images: Images,
    dictionary: Kernel,
    *,
    columns: int,
    n_shown: int = 9,
) -> dict[str, Any]:
    """Predict the filters of a trained dense network's ``hidden1`` from a few of their weights.

    Args:
        trained: a network with a dense ``hidden1``.
        images: what it was trained on.
        dictionary: kernel ridge regression on the pixels.
        columns: groups of units, each with its own draw of known positions.
        n_shown: filters in the pictures, evenly spaced from the worst predicted to the best.

    Returns:
        JSON data: ``shape`` of a filter, ``filters`` (unit, true, known, predicted, r2), ``r2``
        over all filters by fraction, ``description``.

    References: Denil et al. 2013, figure 1.
    """
    channels, *shape = images.shape
    grid = Grid(tuple(shape), channels)
    W = _filters(trained)
    r2, shown = [], []
    for fraction in FRACTIONS:
        predictor = FilterPredictor(Rule(dictionary, fraction, columns, grid), W.shape)
        predicted = predictor.predict(W)
        n_atoms = predictor.known.shape[1]
        r2.append({"fraction": fraction, "n_atoms": n_atoms, "r2": explained(W, predicted)})
        if fraction == SHOWN:
            shown = _choose(W, predictor.known, predicted, grid, n_shown)
    return {
        "schema": SCHEMA,
        "experiment": "figure1",
        "dataset": images.name,
        "shape": shape,
        "description": _describe(grid, dictionary),
        "r2": r2,
        "filters": shown,
    }


class FilterPredictor:
    """w = K[:, known] (K[known, known] + ridge I)^-1 w_known, for every filter.

    Args:
        rule: a Kernel dictionary with ridge mixing, whose V holds the known weights.
        shape: (n_units, n_visible) of the filters.
        seed: of the known positions.

    Attributes:
        known: (n_units, n_atoms) int64, the known positions.
    """

    def __init__(self, rule: Rule, shape: Sequence[int], seed: int = 0) -> None:
        n_units, n_visible = shape
        atoms = rule.build(n_visible, n_units, generator=torch.Generator().manual_seed(seed))
        self._weight = PredictedWeight(atoms, n_units)
        self.known = atoms.indices[self._weight.unit_columns]

    @torch.no_grad()
    def predict(self, W: Tensor) -> Tensor:
        """Predict all weights from the known ones.

        Args:
            W: (n_units, n_visible) float64, the true filters.

        Returns:
            The predicted filters, (n_units, n_visible) float64.
        """
        self._weight.V.copy_(W.gather(1, self.known).t())
        return self._weight.weight


def explained(true: Tensor, predicted: Tensor) -> float:
    """R2 = 1 - sum (w - w_predicted)^2 / sum (w - mean of its filter)^2, over all filters given.

    Args:
        true: (n_filters, n_visible).
        predicted: (n_filters, n_visible).

    Returns:
        The share of variance explained: 1 at best, below 0 where the means alone do better; 0 for
        filters without variance.
    """
    variance = float((true - true.mean(dim=1, keepdim=True)).square().sum())
    return 1 - float((true - predicted).square().sum()) / variance if variance else 0.0


def _filters(network: nn.Module) -> Tensor:
    """The rows of hidden1's weight, (n_units, n_visible) float64 on the CPU."""
    layer = network.get_submodule("hidden1")
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().to("cpu", torch.float64)


def _choose(
    true: Tensor, known: Tensor, predicted: Tensor, grid: Grid, n_shown: int
) -> list[dict[str, Any]]:
    """Filters evenly spaced by rank of R2; of an image in colour, their first channel."""
    r2 = [explained(w[None], w_hat[None]) for w, w_hat in zip(true, predicted, strict=True)]
    ranks = sorted(range(len(r2)), key=r2.__getitem__)
    chosen = [ranks[int((i + 0.5) * len(ranks) / n_shown)] for i in range(n_shown)]
    first = grid.n_points

    def rounded(w: Tensor) -> list[float]:
        return [float(f"{value:.4g}") for value in w[:first].tolist()]

    return [
        {
            "unit": unit,
            "r2": r2[unit],
            "true": rounded(true[unit]),
            "known": sorted(i for i in known[unit].tolist() if i < first),
            "predicted": rounded(predicted[unit]),
        }
        for unit in chosen
    ]


def _describe(grid: Grid, dictionary: Kernel) -> list[str]:
    n_known = round(SHOWN * grid.n_visible)
    kernel = dictionary.kernel
    named = (
        f"a Gaussian kernel {kernel.length_scale:g} pixels wide"
        if isinstance(kernel, SquaredExponential)
        else f"the kernel {kernel}"
    )
    channel = ", of which the first channel is shown" if grid.channels > 1 else ""
    return [
        f"A filter is the {grid.n_visible:,} weights that lead from the pixels to one unit of "
        f"hidden1{channel}. True: the filter as the dense network (seed 0) has learned it. Known: "
        f"{n_known:,} of its weights ({100 * SHOWN:g} %), at random positions; the others are "
        "grey. Predicted: the whole filter, computed from the known weights alone by ridge "
        f"regression with {named}. Blue is negative, red positive, with one scale for the three.",
        "The filters are evenly spaced by rank, from the worst predicted to the best. The "
        "predicted networks above do not imitate such filters: they learn their few weights so "
        "that the predicted whole is useful.",
    ]
