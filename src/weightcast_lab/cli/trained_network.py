"""The dense network of a run of ``weightcast train``, which ``weightcast export`` asks for."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from weightcast_lab.studies.train import CONFIG, FACTS
from weightcast_lab.training import TrainConfig
from weightcast_lab.training.build import dense_model


def trained_network(folder: Path) -> tuple[nn.Module, list[int], int | None]:
    """The dense network that a run's config describes, an example's shape, a text's alphabet.

    Args:
        folder: of the run.

    Raises:
        ValueError: it is no run's folder.
    """
    try:
        config, data = (json.loads((folder / name).read_bytes()) for name in (CONFIG, FACTS))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is no run of weightcast train: {Path(error.filename).name} is missing. Name "
            "the dense network of a saved model with --factory PACKAGE:FUNCTION"
        ) from error
    config = TrainConfig.from_dict(config, str(folder / CONFIG))
    shape, n_classes = data["shape"], data["n_classes"]
    alphabet = n_classes if config.model.reads_text else None
    return dense_model(config, shape, n_classes), shape, alphabet
