"""The reference networks, dense, with named layers for plans to name.

Widths are arguments, so that the narrow network that others are compared with is the same function.
"""

from weightcast.training.models.images import convnet, mlp
from weightcast.training.models.recurrent import LSTMLanguageModel, lstm
from weightcast.training.models.residual import ResNet, resnet20
from weightcast.training.models.transformers import GPT, Block, VisionTransformer, gpt, vit

__all__ = [
    "GPT",
    "Block",
    "LSTMLanguageModel",
    "ResNet",
    "VisionTransformer",
    "convnet",
    "gpt",
    "lstm",
    "mlp",
    "resnet20",
    "vit",
]
