"""The data and the network of a TrainConfig: read, drawn, predicted as planned, pre-trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weightcast.plan.plan import Plan
from weightcast.transform.convert import convert
from weightcast.transform.pretrain import pretrain
from weightcast_lab.data.image_sources import load_images
from weightcast_lab.data.images import Images
from weightcast_lab.data.text import Text, load_text
from weightcast_lab.networks import convnet, gpt, lstm, mlp, resnet20, vit
from weightcast_lab.settings import TrainConfig

IMAGE_BATCH, TEXT_BATCH = 500, 100
"""Images, or windows of text, in each of the batches that dictionaries are made from."""


def read_data(config: TrainConfig, source: str) -> Images | Text:
    """The config's images, standardised, or its text, from where they lie and split as it says."""
    if config.model.reads_text:
        data = load_text(source, context=config.context, n_validation=config.n_validation)
        return data if config.n_train is None else data.fewer(config.n_train)
    images = load_images(source, n_validation=config.n_validation)
    if config.n_train is not None:
        images = images.fewer(config.n_train)
    return images.standardised() if config.standardise else images


def build_model(config: TrainConfig, data: Images | Text, *, progress: bool = False) -> nn.Module:
    """The config's network for these data: weights drawn, plan carried out, pre-trained.

    Args:
        config: the run.
        data: from whose training split data-driven dictionaries are made.
        progress: whether to show that of pre-training on stderr.

    Raises:
        ValueError: images too small for the network, or a plan that does not fit it.
    """
    model = apply_plan(dense_model(config, data.shape, data.n_classes), config, data)
    if config.pretraining is not None:
        hidden = [name for name, _ in model.named_children() if name.startswith(("hidden", "conv"))]
        pretrain(
            model,
            data.train[0].split(100),
            layers=hidden,
            seed=config.seed,
            progress=progress,
            **dataclasses.asdict(config.pretraining),
        )
    return model


def dense_model(config: TrainConfig, shape: Sequence[int], n_classes: int) -> nn.Module:
    """The config's dense network.

    Args:
        config: the run.
        shape: channels, height and width of an image, or the characters of a window of text.
        n_classes: outputs.
    """
    settings, seed = config.model, config.seed
    # What is left out takes the network's own default.
    depth = {} if settings.depth is None else {"depth": settings.depth}
    width = {"width": settings.hidden[0]} if settings.hidden else {}
    match settings.name:
        case "lstm":
            return lstm(n_classes, **width, **depth, seed=seed)
        case "gpt":
            return gpt(n_classes, shape[0], **width, **depth, seed=seed)
        case "vit":
            return vit(shape, n_classes, **width, **depth, seed=seed)
        case "resnet20":
            return resnet20(shape, n_classes, settings.hidden or (16, 32, 64), seed=seed)
        case "convnet":
            widths = settings.hidden or (48, 64, 64, 500)
            return convnet(shape, n_classes, settings.activation, widths, seed=seed)
    hidden = (500, 500) if settings.hidden is None else settings.hidden  # () is a linear model
    return mlp(shape, n_classes, hidden, settings.activation, seed=seed)


def apply_plan(model: nn.Module, config: TrainConfig, data: Images | Text) -> nn.Module:
    """The model with the layers predicted that the config's plan names.

    Args:
        model: dense.
        config: the run.
        data: from whose training split data-driven dictionaries are made.
    """
    if config.plan is None:
        return model
    plan = Plan.from_dict(config.plan)
    # Where the network was trained before, for its directions, V is to be drawn anew.
    inputs = example_inputs(config, data)
    return convert(model, plan, inputs=inputs, seed=config.seed, warn_pretrained=False)


def example_inputs(config: TrainConfig, data: Images | Text) -> list[Tensor]:
    """Batches of the training examples that data-driven dictionaries are made from.

    Spread over the data set, which may be sorted. A list: a tuple of two could be an input and its
    target.
    """
    x, _ = data.train
    chosen = torch.linspace(0, len(x) - 1, min(config.n_inputs, len(x))).long()
    return list(x[chosen].split(TEXT_BATCH if config.model.reads_text else IMAGE_BATCH))
