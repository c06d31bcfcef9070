"""Which predicted layer stands in for which dense one, and what the two say of themselves."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from weightcast.grid import Grid
from weightcast.layers.bilinear import PredictedBilinear
from weightcast.layers.convolution import PredictedConv1d, PredictedConv2d, PredictedConv3d
from weightcast.layers.embedding import PredictedEmbedding, PredictedEmbeddingBag
from weightcast.layers.layer import PredictedLayer
from weightcast.layers.linear import PredictedLinear, PredictedTransposedLinear
from weightcast.layers.parameter import PredictedParameter
from weightcast.layers.transposed import (
    PredictedConvTranspose1d,
    PredictedConvTranspose2d,
    PredictedConvTranspose3d,
)

PREDICTED: dict[type[nn.Module], type[PredictedLayer]] = {
    layer.dense_class: layer
    for layer in (
        PredictedLinear,
        PredictedConv1d,
        PredictedConv2d,
        PredictedConv3d,
        PredictedConvTranspose1d,
        PredictedConvTranspose2d,
        PredictedConvTranspose3d,
        PredictedEmbedding,
        PredictedEmbeddingBag,
        PredictedBilinear,
        PredictedParameter,
    )
}
"""The predicted layer of every dense class of torch that can be converted."""


def predicted_class(layer: nn.Module) -> type[PredictedLayer] | None:
    """The predicted class of a layer, dense or predicted; None if it has none.

    Exact types only: what a subclass computes is not known.
    """
    if isinstance(layer, PredictedLayer):
        return type(layer)
    transformers = sys.modules.get("transformers.pytorch_utils")
    if transformers is not None and type(layer) is transformers.Conv1D:
        return PredictedTransposedLinear
    return PREDICTED.get(type(layer))


def layer_size(layer: nn.Module) -> tuple[int, int]:
    """(n_visible, n_units) of a layer that can be predicted, or is.

    Raises:
        ValueError: it cannot.
    """
    if isinstance(layer, PredictedLayer):
        return layer.n_visible, layer.n_units
    weight: Any = layer.weight
    n_units, n_visible = class_of(layer).unit_rows(layer, weight).shape
    return n_visible, n_units


def layer_grid(layer: nn.Module) -> Grid | None:
    """The coordinates that a layer, dense or predicted, knows of its inputs."""
    return class_of(layer).own_grid(layer)


def layer_rows(layer: nn.Module, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
    """The rows that a layer multiplies by W: (n_rows, n_visible).

    Args:
        layer: one that can be predicted, or is.
        inputs: what it is called with; a convolution's patches become rows, one per output position
            (and group).
        side_by_side: put the patches of one position's groups into one row, (n_positions,
            groups * n_visible).

    Raises:
        ValueError: a layer that multiplies no inputs, such as an embedding.
    """
    return class_of(layer).input_rows(layer, *inputs, side_by_side=side_by_side)


def is_blind(layer: nn.Module) -> bool:
    """Whether a layer's inputs cannot be seen, or are none that it multiplies, as a table's.

    Raises:
        ValueError: it has no predicted class.
    """
    return class_of(layer).data_refusal(layer) is not None


def class_of(layer: nn.Module) -> type[PredictedLayer]:
    """The predicted class of a layer, dense or predicted.

    Raises:
        ValueError: it has none.
    """
    found = predicted_class(layer)
    if found is None:
        raise ValueError(f"{type(layer).__name__} is no layer that can be predicted")
    return found
