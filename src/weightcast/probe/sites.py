"""A layer to probe: its weights, what is known of their inputs, and how they are predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.codec import nearest
from weightcast.convertible import check_values, convertible_layers, weight_refusal
from weightcast.dictionaries import (
    DCT,
    Atoms,
    Covariance,
    DenseBase,
    Dictionary,
    InputStatistics,
    Kernel,
    SharedBases,
    count_atoms,
)
from weightcast.dictionaries.singular import leading_filters
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers import class_of, layer_grid
from weightcast.least_squares import Metric
from weightcast.predicted import PredictedWeight
from weightcast.probe.table import CEILING, ProbeRow
from weightcast.rule import Rule


@dataclass(frozen=True)
class ProbeSite:
    """One layer's weights, and what is known of their inputs.

    Args:
        name: of the layer.
        W: (n_units, n_visible) float64.
        grid: coordinates of the inputs, where they have any.
        statistics: of the inputs.
        metric: of the inputs.
    """

    name: str
    W: Tensor
    grid: Grid | None = None
    statistics: InputStatistics | None = None
    metric: Metric | None = None

    @property
    def n_units(self) -> int:
        """Number of filters."""
        return self.W.shape[0]

    @property
    def n_visible(self) -> int:
        """Weights of a filter."""
        return self.W.shape[1]

    def candidates(self) -> dict[str, Dictionary]:
        """What is tried where the user names no dictionaries."""
        found: dict[str, Dictionary] = {}
        if self.grid is not None and self.grid.n_points > 1:
            # Pixels of images are smooth over more cells than the few of a convolution's filters.
            length_scale = 2.0 if min(self.grid.shape) > 11 else 1.0
            found["Kernel"] = Kernel(SquaredExponential(length_scale))
        found["DCT"] = DCT(selection="leading")
        if self.statistics is not None:
            found["Covariance"] = Covariance()
        return found

    def measure(self, dictionary: str, rule: Rule, seed: int, bases: SharedBases) -> ProbeRow:
        """Predict all weights by one rule; a dictionary that cannot be built says why."""
        facts: dict[str, Any] = {"layer": self.name, "dictionary": dictionary}
        facts |= {"fraction": rule.fraction, "n_atoms": 0}
        try:
            facts["n_atoms"] = count_atoms(rule.fraction, self.n_visible)
            weight = None if dictionary == CEILING else self._build(rule, seed, bases)
        except ValueError as error:
            return ProbeRow(**facts, r2=None, reason=str(error))
        # A learned U is found along with V, as ``compress`` does.
        free = weight is None or weight.atoms.base.is_learned
        if weight is None or free:
            weight = self._best(rule)
        if rule.dictionary.reads_weights:
            units = weight.unit_columns
            known = torch.gather(self.W, 1, weight.atoms.indices[units])  # (n_units, n_atoms)
            with torch.no_grad():
                weight.V.copy_(known.t())
        else:
            weight.fit(self.W)
        r2 = explained(self.W, weight.weight.detach())
        if self.metric is None:
            return ProbeRow(**facts, r2=r2)
        if free:  # the best for the output is another
            weight = self._best(rule, self.metric.moments.mean(dim=0))
        return ProbeRow(**facts, r2=r2, output_r2=1 - weight.fit(self.W, self.metric))

    def _build(self, rule: Rule, seed: int, bases: SharedBases) -> PredictedWeight:
        statistics = self.statistics
        if "weight" in rule.dictionary.needs:
            statistics = replace(statistics or InputStatistics(0), weight=self.W.t())
        atoms = rule.build(
            self.n_visible,
            self.n_units,
            grid=self.grid,
            statistics=statistics,
            generator=torch.Generator().manual_seed(seed),
            bases=bases,
        )
        return PredictedWeight(atoms, self.n_units)

    def _best(self, rule: Rule, C: Tensor | None = None) -> PredictedWeight:
        """Every column's own singular vectors: no atoms explain more."""
        n_atoms = count_atoms(rule.fraction, self.n_visible)
        columns = self.W.tensor_split(rule.columns)
        rows = [leading_filters(W.t(), C)[:, :n_atoms].t() for W in columns]
        indices = torch.arange(rule.columns * n_atoms).view(rule.columns, n_atoms)
        return PredictedWeight(Atoms(DenseBase(torch.cat(rows)), indices), self.n_units)


def find_sites(
    model: nn.Module | Mapping[str, Any],
    layers: Sequence[str] | None,
    grids: Mapping[str, Grid | tuple[int, ...]],
) -> dict[str, ProbeSite]:
    """The layers to probe, by name.

    Raises:
        ValueError: none at all, a name that is none of them, or weights that are not finite.
    """
    if isinstance(model, nn.Module):
        check_values(model)
    found = dict(_tensors(model) if isinstance(model, Mapping) else _layers(model))
    if not found:
        raise ValueError("there is nothing to probe: no weights of linear layers or convolutions")
    for name in [*(layers or ()), *grids]:
        if name not in found:
            raise ValueError(f"no layer {name!r} can be probed{nearest(name, found)}")
    sites = {}
    for name in found if layers is None else layers:
        weight, grid = found[name]
        W = weight.detach().to("cpu", torch.float64)
        if not bool(W.isfinite().all()):
            raise ValueError(
                f"layer {name!r}: {int((~W.isfinite()).sum())} of its {W.numel()} weights are NaN "
                "or infinite: load weights that are finite, or leave the layer out"
            )
        if name in grids:
            grid = checked(name, Grid.of(grids[name]).check, W.shape[1])
        sites[name] = ProbeSite(name, W, grid)
    return sites


def _layers(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, Grid | None]]]:
    """Weights that can be read, whether they may be predicted or, if frozen, may not."""
    for name, layer in convertible_layers(model).items():
        if weight_refusal(layer) is None:
            weight: Any = layer.weight
            yield name, (class_of(layer).unit_rows(layer, weight), layer_grid(layer))


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Tensor, Grid | None]]]:
    """Weights of linear layers, two axes, and of convolutions, three to five."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        if 2 <= tensor.dim() <= 5 and tensor.numel() and tensor[0].numel() > 1:
            grid = None if tensor.dim() == 2 else Grid(tuple(tensor.shape[2:]), tensor.shape[1])
            yield name.removesuffix(".weight"), (tensor.flatten(1), grid)


def explained(W: Tensor, predicted: Tensor) -> float:
    """R2 = 1 - sum (w - w_predicted)^2 / sum (w - mean of its filter)^2, over all filters given.

    Args:
        W: (n_units, n_visible), the true filters.
        predicted: (n_units, n_visible).

    Returns:
        The share of variance explained: 1 at best, below 0 where the means alone do better; 0 for
        filters without variance.
    """
    variance = float((W - W.mean(dim=1, keepdim=True)).square().sum())
    return 1 - float((W - predicted).square().sum()) / variance if variance else 0.0


def checked(name: str, check: Any, *arguments: Any) -> Any:
    """What a check returns; its errors name the layer."""
    try:
        return check(*arguments)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
