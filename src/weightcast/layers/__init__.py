"""Predicted layers: a dense layer's interface around one PredictedWeight.

Each mirrors its dense counterpart: the same arguments first, the same output, and ``.weight`` in
torch's layout; ``from_dense`` and ``to_dense`` convert one to the other. Modules that read several
weights themselves (attention, recurrent layers, experts) are split first, so that each weight is a
layer: ``composite``.
"""

from weightcast.layers.adapted import (
    AdaptedLayer,
    adapted_layers,
    free,
    is_freed,
    relative_refusal,
)
from weightcast.layers.attention import PredictedMultiheadAttention
from weightcast.layers.bilinear import PredictedBilinear
from weightcast.layers.composite import PredictedModule
from weightcast.layers.convolution import PredictedConv1d, PredictedConv2d, PredictedConv3d
from weightcast.layers.embedding import PredictedEmbedding, PredictedEmbeddingBag
from weightcast.layers.experts import PredictedExperts
from weightcast.layers.layer import LayerOptions, PredictedLayer
from weightcast.layers.linear import PredictedLinear, PredictedTransposedLinear
from weightcast.layers.parameter import DenseParameter, PredictedParameter
from weightcast.layers.recurrent import PredictedRecurrent
from weightcast.layers.registry import PREDICTED, find_view, predicted_layers, view
from weightcast.layers.split import SPLIT, split_class, split_module, split_refusal
from weightcast.layers.transposed import (
    PredictedConvTranspose1d,
    PredictedConvTranspose2d,
    PredictedConvTranspose3d,
)
from weightcast.layers.view import Refusal, View

__all__ = ["LayerOptions", "PredictedLayer", "PredictedLinear", "PredictedTransposedLinear"]
__all__ += ["PredictedBilinear", "PredictedConv1d", "PredictedConv2d", "PredictedConv3d"]
__all__ += ["PredictedConvTranspose1d", "PredictedConvTranspose2d", "PredictedConvTranspose3d"]
__all__ += ["AdaptedLayer", "adapted_layers", "free", "is_freed", "relative_refusal"]
__all__ += ["DenseParameter", "PredictedEmbedding", "PredictedEmbeddingBag", "PredictedParameter"]
__all__ += ["PredictedExperts", "PredictedMultiheadAttention", "PredictedRecurrent"]
__all__ += ["SPLIT", "PredictedModule", "split_class", "split_module", "split_refusal"]
__all__ += ["PREDICTED", "Refusal", "View", "find_view", "predicted_layers", "view"]
