"""suggest: a plan to start from."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from weightcast.dictionaries import DCT, Covariance, Dictionary, Kernel, check_fraction
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers import layer_size, predicted_class
from weightcast.plan import Plan, convertible_layers
from weightcast.rule import Rule
from weightcast.statistics import as_batches, execution_order

MIN_WEIGHTS = 1_000
"""Layers with fewer weights stay dense: there is nothing to save."""


def suggest(
    model: nn.Module, fraction: float = 0.05, inputs: Any = None, columns: int = 10
) -> Plan:
    """A plan to start from: kernels where inputs have coordinates, other dictionaries elsewhere.

    The classifier (the layer that runs last), layers of fewer than 1,000 weights, and layers for
    which ``fraction`` is less than one atom stay dense.

    Args:
        model: dense.
        fraction: share of each predicted layer's weights that is learned, in (0, 1].
        inputs: example batches as for ``convert``. With them the layers' order is that in
            which the model runs them, the first layer's grid is that of the images it is given,
            and layers without coordinates take the covariance of their inputs. Without them,
            layers are taken in the order of their registration, and those take DCT atoms.
        columns: groups of units with atoms of their own, fewer where a layer has fewer units.

    Returns:
        A plan with one exact name per predicted layer.

    Raises:
        ValueError: a fraction outside (0, 1], or a model in which no layer is left to predict.
    """
    check_fraction(fraction)
    layers = convertible_layers(model)
    seen: dict[str, Tensor] = {}
    image: tuple[int, ...] = ()
    if inputs is not None:
        batch = as_batches(inputs)[0]
        seen = execution_order(model, layers, batch)
        layers = {name: layers[name] for name in seen}
        image = _image_shape(batch)
    rules: dict[str, Rule | None] = {}
    for name in list(layers)[:-1]:
        layer: Any = layers[name]
        n_visible, n_units = layer_size(layer)
        if n_visible * n_units < MIN_WEIGHTS or round(fraction * n_visible) < 1:
            continue
        grid = _grid(layer, n_visible, image if name == next(iter(layers)) else ())
        kind = predicted_class(layer)
        assert kind is not None
        have_rows = inputs is not None and kind.data_refusal(layer) is None
        dictionary = _dictionary(layer, grid, have_rows)
        rules[name] = Rule(dictionary, fraction, min(columns, n_units), grid)
    if not rules:
        raise ValueError(
            f"no layer to predict at fraction {fraction}: of the model's {len(layers)} layer(s) "
            f"that can be predicted, the last one, those under {MIN_WEIGHTS:,} weights and those "
            "under one atom stay dense"
        )
    return Plan({**rules, "*": None})


def _image_shape(batch: Any) -> tuple[int, ...]:
    """(channels, *size) of a batch of images, () if it is none."""
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
        return ()
    return tuple(x.shape[1:]) if x.dim() > 3 else (1, *x.shape[1:])


def _grid(layer: nn.Module, n_visible: int, image: tuple[int, ...]) -> Grid | None:
    """The grid of a linear layer that is given flattened images; convolutions know their own."""
    if isinstance(layer, nn.Linear) and image and math.prod(image) == n_visible:
        return Grid(image[1:], channels=image[0])
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and math.prod(layer.kernel_size) == 1:
        return Grid((n_visible,))  # its channels on a line, for atoms that need one
    return None


def _dictionary(layer: nn.Module, grid: Grid | None, have_inputs: bool) -> Dictionary:
    if grid is not None and isinstance(layer, nn.Linear):
        return Kernel(SquaredExponential(length_scale=2.0))
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and math.prod(layer.kernel_size) > 1:
        return Kernel(SquaredExponential(length_scale=1.0))
    return Covariance(selection="leading", mixing="orthonormal") if have_inputs else DCT()
