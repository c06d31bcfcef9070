"""Predicted layers: a dense layer's interface around one PredictedWeight.

Each mirrors its dense counterpart: the same arguments first, the same output, and ``.weight`` in
torch's layout; ``from_dense`` and ``to_dense`` lead from one to the other.
"""

from torch import nn

from weightcast.layers.convolution import PredictedConv1d, PredictedConv2d, PredictedConv3d
from weightcast.layers.layer import PredictedLayer, layer_grid
from weightcast.layers.linear import PredictedLinear
from weightcast.layers.rows import layer_rows

__all__ = [
    "PREDICTED",
    "PredictedConv1d",
    "PredictedConv2d",
    "PredictedConv3d",
    "PredictedLayer",
    "PredictedLinear",
    "layer_grid",
    "layer_rows",
]

PREDICTED: dict[type[nn.Module], type[PredictedLayer]] = {
    layer.dense_class: layer
    for layer in (PredictedLinear, PredictedConv1d, PredictedConv2d, PredictedConv3d)
}
"""The predicted layer of every dense class that can be converted."""
