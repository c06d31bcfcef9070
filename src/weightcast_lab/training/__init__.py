"""Training on small images and on text: data, reference networks, settings, ``fit`` on Lightning.

Read in this order: ``weightcast_lab.settings``, ``build``, ``module``, ``callbacks``, ``fit``;
apart from these, ``ica`` learns filters without labels and ``linear`` classifies what they respond.
"""

from weightcast.integrations.lightning import RandomState, SafetensorsCheckpointIO
from weightcast_lab.data.batches import Batches
from weightcast_lab.data.image_sources import load_images
from weightcast_lab.data.images import Images
from weightcast_lab.data.prepared import save_images
from weightcast_lab.data.text import Text, load_text
from weightcast_lab.networks import convnet, gpt, lstm, mlp, resnet20, vit
from weightcast_lab.settings import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)
from weightcast_lab.training.callbacks import Interrupted
from weightcast_lab.training.fit import FitResult, fit
from weightcast_lab.training.module import Classifier, Score, measure, measure_error

__all__ = [
    "Batches",
    "Classifier",
    "FitResult",
    "Images",
    "Interrupted",
    "ModelSettings",
    "PretrainingSettings",
    "RandomState",
    "SafetensorsCheckpointIO",
    "Score",
    "Text",
    "TrainConfig",
    "TrainingSettings",
    "convnet",
    "fit",
    "gpt",
    "load_images",
    "load_text",
    "lstm",
    "measure",
    "measure_error",
    "mlp",
    "resnet20",
    "save_images",
    "vit",
]
