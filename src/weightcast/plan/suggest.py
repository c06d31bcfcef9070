"""suggest: a plan to start from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from weightcast.dictionaries import check_fraction
from weightcast.dictionaries.families import Family
from weightcast.grid import Grid
from weightcast.inputs.batches import as_batches
from weightcast.inputs.survey import Survey, survey
from weightcast.layers import view
from weightcast.layers.rule import Rule
from weightcast.plan.budget import Count, TooMuchDenseError, plan_for_budget
from weightcast.plan.eligibility import convertible_layers, groups_of_one_weight, refusals
from weightcast.plan.plan import Plan

MIN_WEIGHTS = 1_000
"""Layers with fewer weights stay dense: there is nothing to save."""


def suggest(
    model: nn.Module,
    fraction: float | None = None,
    inputs: Any = None,
    columns: int = 10,
    *,
    budget: float | int | None = None,
    count: Count = "learned",
    seed: int = 0,
    progress: bool = True,
) -> Plan:
    """A plan to start from: kernels where inputs have coordinates, other dictionaries elsewhere.

    With a fraction, every predicted layer learns this share of its weights. With a budget, layers
    share what the network may learn: the loss of every layer's output is counted for every number
    of atoms, as :func:`probe` counts it, and the next number goes where it adds most to the product
    of what the layers keep. So a layer whose inputs vary in few directions gets few atoms; where
    weights are random, nothing else tells layers apart.

    With a budget, images and patches take kernels (flattened images, the first convolution or patch
    embedding), convolutions above those the covariance of their channels times a kernel on space,
    and linear layers (of transformers too) the covariance of their inputs. ``count="stored"`` is
    for :func:`compress`: dictionaries that a file must hold count in full, and each layer takes
    the best among kernels, cosines, single inputs, and singular vectors of its weights.

    The classifier (the layer that runs last), layers of fewer than 1,000 weights, and layers for
    which ``fraction`` is less than one atom stay dense.

    Args:
        model: dense.
        fraction: share of each predicted layer's weights that is learned, in (0, 1]; 0.05 where
            neither it nor a budget is given.
        inputs: example batches as for ``convert``, at most 1,000 where they have no length. With
            them layers come in the order in which the model runs them, the first has the grid of
            the images it is given, layers without coordinates take the covariance of their inputs,
            and convolutions of more than 4 channels that of their channels times a kernel on space.
            Without them layers come in the order of registration, and those take DCT atoms and
            kernels.
        columns: groups of units with atoms of their own, fewer where a layer has fewer units.
        budget: numbers that the whole network learns (or stores) at most, what stays dense
            included: a share of all its weights in (0, 1), or a whole number.
        count: ``learned``, or ``stored``: what a saved folder holds, indices and all.
        seed: of draws of atoms, as ``convert`` makes them.
        progress: whether to show a bar, or lines, while inputs are read and a budget is shared.

    Returns:
        A plan with one exact name per predicted layer.

    Raises:
        ValueError: a fraction outside (0, 1], both a fraction and a budget, a model in which no
            layer is left to predict, a budget below what stays dense or below one atom per layer,
            or inputs on which the model fails.
    """
    if fraction is not None and budget is not None:
        raise ValueError(f"fraction is {fraction} and budget {budget}: give one of the two")
    fraction = 0.05 if fraction is None else fraction
    check_fraction(fraction)
    batches = None if inputs is None else as_batches(inputs, progress=progress)
    layers, order, surveyed = _in_order(model, batches)
    image = _image_shape(batches[0]) if batches else ()
    found = {
        name: _grid(layers[name], image if name == order[0] else ())
        for name in _predictable(model, order)
        if layers[name].weight.numel() >= MIN_WEIGHTS
    }
    if budget is not None and found:
        return plan_for_budget(
            model, found, budget, batches, columns,
            surveyed=surveyed, count=count, seed=seed, progress=progress,
        )  # fmt: skip
    rules: dict[str, Rule | None] = {}
    for name, grid in found.items():
        seen = view(layers[name])
        n_visible, n_units = seen.sizes
        if round(fraction * n_visible) < 1:
            continue
        pixels = grid is not None and isinstance(layers[name], nn.Linear)
        have_rows = inputs is not None and not seen.blindness
        family = Family(grid if pixels else seen.grid, have_rows, pixels)
        rules[name] = Rule(family.own, fraction, min(columns, n_units), grid)
    if not rules:
        raise _nothing_left(model, layers, order, found, None if budget else fraction)
    return Plan({**rules, "*": None})


def _in_order(
    model: nn.Module, batches: list[Any] | None
) -> tuple[dict[str, Any], Sequence[str], Survey | None]:
    """The layers that multiply their inputs (embeddings do not), and the order in which they run.

    Without batches it is the order of registration. A layer whose inputs are hidden runs after the
    other weights of its module.
    """
    tables, every = (nn.Embedding, nn.EmbeddingBag), convertible_layers(model)
    layers: Any = {name: x for name, x in every.items() if not isinstance(x, tables)}
    if batches is None:
        return layers, list(layers), None
    own = [name for name, layer in layers.items() if not view(layer).blindness]
    found = survey(model, own, batches)
    order = list(found.order)
    for name in (name for name in layers if name not in own):
        parent = name.rpartition(".")[0]
        last = [place for place, n in enumerate(order) if n.rpartition(".")[0] == parent][-1:]
        for place in last:
            order.insert(place + 1, name)
    return layers, order, found


def _predictable(model: nn.Module, order: Sequence[str]) -> list[str]:
    """The layers that may be predicted: not the last, the classifier, nor tied or refused ones."""
    every = convertible_layers(model)
    alone = {group[0] for group in groups_of_one_weight(every) if len(group) == 1}
    free = alone - refusals(model, every).keys()
    return [name for name in order[:-1] if name in free]


def _nothing_left(
    model: nn.Module,
    layers: Mapping[str, Any],
    order: Sequence[str],
    large: Collection[str],
    fraction: float | None,
) -> ValueError:
    """The error where no layer is left; ``large`` are too small only for a fraction, if given."""
    if not large or fraction is None:
        refused = refusals(model, convertible_layers(model)).items()
        why = next((f"; {refusal.about(f'layer {name!r}')}" for name, refusal in refused), "")
        return TooMuchDenseError(
            f"no layer to predict: of the model's {len(order)} layer(s) that run and multiply "
            f"inputs, the last one, those under {MIN_WEIGHTS:,} weights, and those that are tied "
            f"or refused stay dense: name layers in a Plan of your own{why}"
        )
    widest = max(view(layers[name]).sizes[0] for name in large)
    return ValueError(
        f"no layer to predict at fraction {fraction}: the {len(large)} layer(s) that could be have "
        f"at most {widest:,} inputs, and {fraction * widest:.2g} atoms are below one: take a "
        f"fraction of at least {math.ceil(1e4 / widest) / 1e4:g}"
    )


def _image_shape(batch: Any) -> tuple[int, ...]:
    """(channels, *size) of a batch of images, () if it is none."""
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
        return ()
    return tuple(x.shape[1:]) if x.dim() > 3 else (1, *x.shape[1:])


def _grid(layer: Any, image: tuple[int, ...]) -> Grid | None:
    """The grid of a linear layer that is given flattened images; convolutions know their own."""
    n_visible, _ = view(layer).sizes
    if isinstance(layer, nn.Linear) and image and math.prod(image) == n_visible:
        return Grid(image[1:], channels=image[0])
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and math.prod(layer.kernel_size) == 1:
        return Grid((n_visible,))  # its channels on a line, for atoms that need one
    return None
