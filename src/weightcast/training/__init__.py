"""Training on small images: data, reference networks, settings, and ``fit`` on Lightning.

Read in this order: ``data``, ``prepared``, ``batches``, ``models``, ``settings``, ``module``,
``checkpoint_io``, ``randomness``, ``callbacks``, ``fit``.
"""

from weightcast.training.batches import Batches
from weightcast.training.callbacks import Interrupted
from weightcast.training.checkpoint_io import SafetensorsCheckpointIO
from weightcast.training.data import Images, load_images
from weightcast.training.fit import FitResult, fit
from weightcast.training.models import convnet, mlp
from weightcast.training.module import Classifier, measure_error
from weightcast.training.prepared import save_images
from weightcast.training.randomness import RandomState
from weightcast.training.settings import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)

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
    "TrainConfig",
    "TrainingSettings",
    "convnet",
    "fit",
    "load_images",
    "measure_error",
    "mlp",
    "save_images",
]
