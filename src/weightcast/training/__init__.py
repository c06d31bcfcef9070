"""Training on small images and on text: data, reference networks, settings, ``fit`` on Lightning.

Read in this order: ``data``, ``prepared``, ``text``, ``batches``, ``models``, ``settings``,
``module``, ``checkpoint_io``, ``randomness``, ``callbacks``, ``fit``.
"""

from weightcast.training.batches import Batches
from weightcast.training.callbacks import Interrupted
from weightcast.training.checkpoint_io import SafetensorsCheckpointIO
from weightcast.training.data import Images, load_images
from weightcast.training.fit import FitResult, fit
from weightcast.training.models import convnet, gpt, lstm, mlp, resnet20, vit
from weightcast.training.module import Classifier, Score, measure, measure_error
from weightcast.training.prepared import save_images
from weightcast.training.randomness import RandomState
from weightcast.training.settings import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)
from weightcast.training.text import Text, load_text

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
