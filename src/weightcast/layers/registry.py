"""Which predicted layer stands in for which dense one, and what the two say of themselves."""

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


def predicted_layers(model: nn.Module) -> dict[str, PredictedLayer]:
    """The predicted layers of a model, by their first name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PredictedLayer)}
