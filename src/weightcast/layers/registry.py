"""Which predicted layer stands in for which dense one, and so which view a layer has."""

from __future__ import annotations

import sys

from torch import nn

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
from weightcast.layers.view import View

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
"""The predicted class of every dense class that can be converted.

Read at every look-up: an entry made at run time counts from then on.
"""


def find_view(layer: nn.Module) -> View | None:
    """The view of a layer, dense or predicted; None if it cannot be predicted.

    Exact types only: what a subclass computes is not known.
    """
    transformers = sys.modules.get("transformers.pytorch_utils")
    if isinstance(layer, PredictedLayer):
        counterpart = type(layer)
    elif transformers is not None and type(layer) is transformers.Conv1D:
        counterpart = PredictedTransposedLinear
    else:
        counterpart = PREDICTED.get(type(layer))
    return None if counterpart is None else counterpart.view_class(layer, counterpart)


def view(layer: nn.Module) -> View:
    """The view of a layer, dense or predicted; ``ValueError`` if it cannot be predicted."""
    found = find_view(layer)
    if found is None:
        raise ValueError(f"{type(layer).__name__} is no layer that can be predicted")
    return found


def predicted_layers(model: nn.Module) -> dict[str, PredictedLayer]:
    """The predicted layers of a model, by their first name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PredictedLayer)}
