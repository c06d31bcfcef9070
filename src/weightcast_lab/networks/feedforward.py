"""The networks of the paper: a dense MLP and a small convnet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from weightcast_lab.networks.drawing import check_sizes, seeded

ActivationName = Literal["relu", "sigmoid"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def mlp(
    shape: Sequence[int] = (1, 28, 28),
    n_classes: int = 10,
    hidden: Sequence[int] = (500, 500),
    activation: ActivationName = "relu",
    *,
    seed: int | None = None,
) -> nn.Sequential:
    """784-500-500-10 and its relatives: ``flatten, hidden1, activation1, ..., classifier``.

    Args:
        shape: channels, height and width of an image.
        n_classes: outputs.
        hidden: units of each hidden layer.
        activation: after each hidden layer.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: an unknown activation, or a size below 1.

    References: Denil et al. 2013, section 4.1.
    """
    make_activation = _find_activation(activation)
    check_sizes(*shape, n_classes, *hidden)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    n_visible = shape[0] * shape[1] * shape[2]
    with seeded(seed):
        for i, n_units in enumerate(hidden, start=1):
            layers[f"hidden{i}"] = nn.Linear(n_visible, n_units)
            layers[f"activation{i}"] = make_activation()
            n_visible = n_units
        layers["classifier"] = nn.Linear(n_visible, n_classes)
    return _sequential(layers)


def convnet(
    shape: Sequence[int] = (3, 32, 32),
    n_classes: int = 10,
    activation: ActivationName = "relu",
    hidden: Sequence[int] = (48, 64, 64, 500),
    *,
    seed: int | None = None,
) -> nn.Sequential:
    """Three convolutions 48@8x8, 64@5x5, 64@5x5 with pooling, a layer of 500, a classifier.

    Convolutions are padded by half their size and each pooling halves the image: 32 x 32 images
    give ``hidden`` 64 x 4 x 4 = 1024 inputs. Children: ``conv1, activation1, pool1, conv2, ...,
    pool3, flatten, hidden, activation4, classifier``.

    Args:
        shape: channels, height and width of an image, at least 8 x 8.
        n_classes: outputs.
        activation: after each layer but the classifier.
        hidden: units of the three convolutions and of the layer above them.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: an unknown activation, images too small to be halved three times, or other than
            four hidden sizes.

    References: Denil et al. 2013, section 4.2.
    """
    make_activation = _find_activation(activation)
    if len(hidden) != 4:
        raise ValueError(f"hidden has {len(hidden)} sizes: convnet has four layers to size")
    check_sizes(*shape, n_classes, *hidden)
    channels, height, width = shape
    if min(height, width) < 8:
        raise ValueError(
            f"images of {height} x {width} cannot be halved three times: convnet needs 8 x 8"
        )
    layers: dict[str, nn.Module] = {}
    with seeded(seed):
        for i, (n_units, size) in enumerate(zip(hidden[:3], (8, 5, 5), strict=True), start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, n_units, size, padding=size // 2)
            layers[f"activation{i}"] = make_activation()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels = n_units
            # An even size adds a row and a column, as in 32 -> 33 -> pooled 16.
            height, width = ((side + 1 - size % 2) // 2 for side in (height, width))
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(channels * height * width, hidden[3])
        layers["activation4"] = make_activation()
        layers["classifier"] = nn.Linear(hidden[3], n_classes)
    return _sequential(layers)


def _sequential(layers: dict[str, nn.Module]) -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def _find_activation(name: str) -> type[nn.Module]:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation is {name!r}: take {' or '.join(map(repr, _ACTIVATIONS))}")
    return _ACTIVATIONS[name]
