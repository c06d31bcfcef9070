"""The reference networks, dense, with named layers for plans to name.

Widths are arguments, so that the narrow network that others are compared with is the same function.
"""

from weightcast_lab.networks.feedforward import convnet, mlp
from weightcast_lab.networks.recurrent import LSTMLanguageModel, lstm
from weightcast_lab.networks.residual import ResNet, resnet20
from weightcast_lab.networks.transformers import GPT, Block, VisionTransformer, gpt, vit

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
