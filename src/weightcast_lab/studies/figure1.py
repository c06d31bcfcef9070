"""Figure 1 of the paper, as data: a trained filter, a few of its weights, and its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Kernel, RandomGaussian
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.measure.prediction import explained
from weightcast.weight import PredictedWeight
from weightcast_lab.sweeps.rows import SCHEMA
from weightcast_lab.training import Images

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
    layer = trained.get_submodule("hidden1")
    assert isinstance(layer, nn.Linear)
    predictions = predict_filters(filters_of(layer), grid, [dictionary], columns=columns)
    return {
        "schema": SCHEMA,
        "experiment": "figure1",
        "dataset": images.name,
        "shape": shape,
        "description": _describe(grid, dictionary),
        "r2": [
            {"fraction": p.fraction, "n_atoms": p.known.shape[1], "r2": p.r2} for p in predictions
        ],
        "filters": shown_filters(predictions, grid, n_shown),
    }


@dataclass(frozen=True)
class Prediction:
    """All filters of a layer, predicted from one share of their weights.

    Args:
        fraction: the share that is known.
        dictionary: the kernel and the ridge that predicted them.
        true: (n_units, n_visible) float64.
        known: (n_units, n_atoms) int64, positions of the known weights.
        predicted: (n_units, n_visible) float64.
    """

    fraction: float
    dictionary: Kernel
    true: Tensor
    known: Tensor
    predicted: Tensor

    @property
    def r2(self) -> float:
        """The share of variance explained, over all filters together."""
        return explained(self.true, self.predicted)


def predict_filters(
    W: Tensor,
    grid: Grid,
    candidates: Sequence[Kernel],
    *,
    columns: int,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> list[Prediction]:
    """Predict filters from several shares of their weights.

    Args:
        W: (n_units, n_visible) float64, the true filters.
        grid: coordinates of their weights.
        candidates: kernels to choose among, for each share anew, by how well the known weights
            predict each other; the unknown ones have no say.
        columns: groups of units, each with its own draw of known positions.
        fractions: shares of known weights.
        seed: of the known positions, which are the same for all candidates.

    Raises:
        ValueError: no candidates, or shares and columns that do not fit the layer.
    """
    if not candidates:
        raise ValueError("there is no kernel to predict filters with: give at least one")
    predictions = []
    for fraction in fractions:
        predictors = [
            FilterPredictor(Rule(candidate, fraction, columns, grid), W.shape, seed)
            for candidate in candidates
        ]
        scores = [0.0] if len(predictors) == 1 else [p.leave_one_out(W) for p in predictors]
        best = scores.index(max(scores))
        predictor = predictors[best]
        predicted = predictor.predict(W)
        predictions.append(Prediction(fraction, candidates[best], W, predictor.known, predicted))
    return predictions


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

    @torch.no_grad()
    def leave_one_out(self, W: Tensor) -> float:
        """1 - sum e^2 / sum w_known^2, where e is the error of w from all other known weights.

        With M = (K[known, known] + ridge I)^-1, e_i = (M w_known)_i / M_ii: no need to solve the
        regression anew for every weight.

        Args:
            W: (n_units, n_visible) float64; only the known weights are looked at.

        References: Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*,
        equation 5.12.
        """
        atoms = self._weight.atoms
        known = W.gather(1, self.known)  # (n_units, n_atoms)
        columns = self._weight.unit_columns
        errors = torch.empty_like(known)
        for column in range(atoms.columns):
            m, units = atoms.mixing_matrix(column), columns == column
            assert m is not None
            errors[units] = known[units] @ m / m.diagonal()
        total = float(known.square().sum())
        return 1 - float(errors.square().sum()) / total if total else 0.0


def random_r2(W: Tensor, fraction: float, columns: int, seed: int = 0) -> float:
    """The share of variance that as many numbers explain without a kernel.

    Every filter is projected on random orthonormal atoms, ``columns`` draws of them: the best that
    can be done with atoms that know nothing of filters, about ``fraction`` of the variance.

    Args:
        W: (n_units, n_visible) float64, the true filters.
        fraction: number of atoms over n_visible.
        columns: groups of units with atoms of their own.
        seed: of the atoms.
    """
    rule = Rule(RandomGaussian("orthonormal"), fraction, columns)
    generator = torch.Generator().manual_seed(seed)
    weight = PredictedWeight(rule.build(W.shape[1], len(W), generator=generator), len(W))
    weight.fit(W)
    return explained(W, weight.weight.detach())


def filters_of(layer: nn.Module) -> Tensor:
    """Every unit's weights in a dense or convolutional layer, (n_units, n_visible) float64.

    A convolution's filter is in the order of its grid: channels, rows, columns.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().to("cpu", torch.float64).flatten(1)


def shown_filters(
    predictions: Sequence[Prediction], grid: Grid, n_shown: int
) -> list[dict[str, Any]]:
    """Filters evenly spaced by rank of R2; of those with channels, the first channel.

    Args:
        predictions: the pictures are of the one whose fraction is nearest to 25 %.
        grid: coordinates of the weights.
        n_shown: how many; no more than there are.

    Returns:
        For each: ``unit``, ``r2``, ``true``, ``known``, ``predicted`` as JSON data.
    """
    p = min(predictions, key=lambda one: abs(one.fraction - SHOWN))
    n_shown = min(n_shown, len(p.true))
    r2 = [explained(w[None], w_hat[None]) for w, w_hat in zip(p.true, p.predicted, strict=True)]
    ranks = sorted(range(len(r2)), key=r2.__getitem__)
    chosen = [ranks[int((i + 0.5) * len(ranks) / n_shown)] for i in range(n_shown)]
    first = grid.n_points

    def rounded(w: Tensor) -> list[float]:
        return [float(f"{value:.3g}") for value in w[:first].tolist()]

    return [
        {
            "unit": unit,
            "r2": r2[unit],
            "true": rounded(p.true[unit]),
            "known": sorted(i for i in p.known[unit].tolist() if i < first),
            "predicted": rounded(p.predicted[unit]),
        }
        for unit in chosen
    ]


def name_kernel(dictionary: Kernel) -> str:
    """A kernel, in words."""
    kernel = dictionary.kernel
    if isinstance(kernel, SquaredExponential):
        return f"a Gaussian kernel {kernel.length_scale:g} pixels wide"
    return f"the kernel {kernel}"


def _describe(grid: Grid, dictionary: Kernel) -> list[str]:
    n_known = round(SHOWN * grid.n_visible)
    channel = ", of which the first channel is shown" if grid.channels > 1 else ""
    return [
        f"A filter is the {grid.n_visible:,} weights that lead from the pixels to one unit of "
        f"hidden1{channel}. True: the filter as the dense network (seed 0) has learned it. Known: "
        f"{n_known:,} of its weights ({100 * SHOWN:g} %), at random positions; the others are "
        "grey. Predicted: the whole filter, computed from the known weights alone by ridge "
        f"regression with {name_kernel(dictionary)}. Blue is negative, red positive, with one "
        "scale for the three.",
        "The filters are evenly spaced by rank, from the worst predicted to the best. The "
        "predicted networks above do not imitate such filters: they learn their few weights so "
        "that the predicted whole is useful.",
    ]
