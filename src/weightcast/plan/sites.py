"""A layer as a plan weighs it: its weights, and what is known of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.dictionaries.families import Family
from weightcast.grid import Grid
from weightcast.inputs.gather import naming_layer
from weightcast.inputs.walk import Walk
from weightcast.layers import view
from weightcast.layers.models import check_values
from weightcast.least_squares import Metric
from weightcast.plan.eligibility import convertible_layers, weight_refusal
from weightcast.plan.trained import looks_trained
from weightcast.serialization import nearest


@dataclass(frozen=True)
class ProbeSite:
    """One layer's filters, (n_units, n_visible), and what is known of their inputs."""

    name: str
    filters: Tensor
    grid: Grid | None = None
    statistics: InputStatistics | None = None
    metric: Metric | None = None

    @property
    def W(self) -> Tensor:
        """The filters in float64 on the CPU, a copy at each access: no network is held twice."""
        return self.filters.to("cpu", torch.float64)

    @property
    def n_units(self) -> int:
        """Number of filters."""
        return self.filters.shape[0]

    @property
    def n_visible(self) -> int:
        """Weights of a filter."""
        return self.filters.shape[1]


def suiting(layer: nn.Module, grid: Grid | None, *, data: bool) -> Family:
    """What suits a layer: a linear one has a grid only if it is given the pixels of images."""
    seen, pixels = view(layer), grid is not None and isinstance(layer, nn.Linear)
    drawn = pixels and not looks_trained(seen.filters())
    return Family(grid if pixels else seen.grid, data, pixels, drawn)


def find_sites(
    model: nn.Module | Mapping[str, Any],
    layers: Sequence[str] | None,
    grids: Mapping[str, Grid | tuple[int, ...]],
) -> dict[str, ProbeSite]:
    """The layers to probe, by name; ValueError for a name that is none of them."""
    found = dict(_layers(model) if isinstance(model, nn.Module) else _tensors(model))
    if not found:
        why = _refused(model) if isinstance(model, nn.Module) else ""
        raise ValueError(
            f"there is nothing to probe: no weights of linear layers or convolutions{why}"
        )
    for name in [*(layers or ()), *grids]:
        if name not in found:
            raise ValueError(f"no layer {name!r} can be probed{nearest(name, found)}")
    sites = {}
    for name in found if layers is None else layers:
        weight, grid = found[name]
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"layer {name!r}: {int((~weight.isfinite()).sum())} of its {weight.numel()} "
                "weights are NaN or infinite: load weights that are finite, or leave the layer out"
            )
        if name in grids:
            with naming_layer(name):
                grid = Grid.of(grids[name]).check(weight.shape[1])
        sites[name] = ProbeSite(name, weight.detach(), grid)
    return sites


def _layers(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, Grid | None]]]:
    """Weights that can be read, frozen ones too."""
    check_values(model)
    for name, layer in convertible_layers(model).items():
        if weight_refusal(layer) is None:
            seen = view(layer)
            yield name, (seen.filters(), seen.grid)


def _refused(model: nn.Module) -> str:
    """The first layer that could be probed if its weight could be read."""
    layers = convertible_layers(model)
    found = ((name, why) for name, layer in layers.items() if (why := weight_refusal(layer)))
    return next((f"; {why.about(f'layer {name!r}')}" for name, why in found), "")


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Tensor, Grid | None]]]:
    """Weights of linear layers, two axes, and of convolutions, three to five."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        if 2 <= tensor.dim() <= 5 and tensor.numel() and tensor[0].numel() > 1:
            grid = None if tensor.dim() == 2 else Grid(tuple(tensor.shape[2:]), tensor.shape[1])
            yield name.removesuffix(".weight"), (tensor.flatten(1), grid)


def observe(model: nn.Module, site: ProbeSite, walk: Walk) -> ProbeSite:
    """A site with statistics and metric of its inputs, of a model that does not change."""
    with naming_layer(site.name):
        given = walk.given(site.name, model)
        seen = replace(site, statistics=given.statistics(), metric=given.moments.metric())
    walk.settle(site.name)
    return seen
