"""Figure 5 of the paper: the convnet on CIFAR-10, test error against the share that is learned.

All layers but the classifier are predicted: filters have the coordinates of their pixels, and the
layer above them has the covariance of its inputs, or whatever the curve's name says. The paper
gives no configuration. References: Denil et al. 2013, section 4.2 and figure 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weightcast.grid import Grid
from weightcast_lab.networks.feedforward import ActivationName
from weightcast_lab.studies.figure4 import describe
from weightcast_lab.sweeps.curves import DENSE, NARROW, Shape, all_curves, find_curve, make_plan
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)

FRACTIONS = (0.05, 0.1, 0.25, 0.5)
WIDTHS = (48, 64, 64, 500)
KERNELS = (8, 5, 5)
N_CLASSES = 10
LEADING = "Emp-Emp leading"


@dataclass(frozen=True)
class ConvnetSetting:
    """What the networks of one family of curves have in common.

    Args:
        columns: groups of units with atoms of their own.
        epochs: passes over the training images.
        n_train: training images; None takes all.
        learning_rate: the largest one of the schedule.
        activation: after every layer but the classifier.
        pretraining: of these layers; None leaves it out.
    """

    columns: int
    epochs: int
    n_train: int | None = None
    learning_rate: float = 2e-3
    activation: ActivationName = "relu"
    pretraining: PretrainingSettings | None = None


def trials(preset: Preset, seeds: int, data: str) -> list[Trial]:
    """The runs behind the figure.

    Args:
        preset: ``smoke``, two short runs; ``cpu``, five curves on a tenth of the images;
            ``full``, all curves on all images, with ReLU and sigmoids, with and without
            pre-training.
        seeds: runs of each point.
        data: what the data is called.

    Raises:
        ValueError: an unknown preset, or no seeds.
    """
    points = {"smoke": _smoke, "cpu": _cpu, "full": _full}[check_preset(preset, seeds)]()
    return with_seeds(
        points, seeds, lambda point, seed: Trial("train", make_config(*point, seed, data))
    )


ConvnetPoint = tuple[str, float, ConvnetSetting]


def _smoke() -> list[ConvnetPoint]:
    setting = ConvnetSetting(columns=4, epochs=1, n_train=500)
    return [*_curves((DENSE, "SE-Emp"), (0.25,), setting)]


def _cpu() -> list[ConvnetPoint]:
    setting = ConvnetSetting(columns=4, epochs=10, n_train=5_000)
    names = (DENSE, NARROW, "RandFixU-RandFixU", "SE-Emp")
    return [*_curves(names, (0.1, 0.25), setting), *_leading((0.1, 0.25), setting)]


def _full() -> list[ConvnetPoint]:
    settings = [
        ConvnetSetting(columns, epochs=60, activation=activation, pretraining=pretraining)
        for activation in ("relu", "sigmoid")
        for pretraining in (None, PretrainingSettings(epochs=10))
        for columns in (1, 5, 10, 20)
    ]
    return [
        point
        for setting in settings
        for points in (
            _curves((DENSE, NARROW, *all_curves()), FRACTIONS, setting),
            _leading(FRACTIONS, setting),
        )
        for point in points
    ]


def _leading(fractions: Sequence[float], setting: ConvnetSetting) -> Iterator[ConvnetPoint]:
    """Eigenvectors in all layers, with fewer columns where the columns would need most of them.

    They are dealt out to the columns, and the last ones have no variance, which is refused.
    """
    for fraction in fractions:
        columns = min(setting.columns, max(1, int(0.5 / fraction)))
        yield LEADING, fraction, replace(setting, columns=columns)


def _curves(
    names: Sequence[str], fractions: Sequence[float], setting: ConvnetSetting
) -> Iterator[ConvnetPoint]:
    for name in names:
        for fraction in (1.0,) if name == DENSE else fractions:
            yield name, fraction, setting


def make_config(
    name: str, fraction: float, setting: ConvnetSetting, seed: int, data: str
) -> TrainConfig:
    """One run.

    Args:
        name: of the curve.
        fraction: share of all layers' weights but the classifier's that is learned.
        setting: what it has in common with other curves.
        seed: of the run.
        data: what the data is called.
    """
    labels: dict[str, object] = {"curve": name, "fraction": fraction}
    channels, side = (1, 28) if data == "digits" else (3, 32)
    layers = layer_shapes(WIDTHS, channels, side)
    widths, plan = None, None
    if name == NARROW:
        widths = narrow_widths(fraction, channels, side)
    elif name != DENSE:
        curve = find_curve(name)
        plan = make_plan(curve, layers, fraction, setting.columns).to_dict()
        if curve.takes_columns:
            labels["columns"] = setting.columns
    labels |= {
        "activation": setting.activation,
        "pretrained": setting.pretraining is not None,
    }
    return TrainConfig(
        data=data,
        model=ModelSettings("convnet", activation=setting.activation, hidden=widths),
        plan=plan,
        training=TrainingSettings(setting.epochs, learning_rate=setting.learning_rate),
        pretraining=setting.pretraining,
        seed=seed,
        n_train=setting.n_train,
        experiment="fig5",
        variant=describe(labels),
        labels=labels,
    )


def layer_shapes(widths: Sequence[int], channels: int, side: int) -> Mapping[str, Shape]:
    """The layers of the convnet below its classifier, by name.

    Args:
        widths: units of the three convolutions and of the layer above them.
        channels: of an image.
        side: height and width of an image, in pixels.
    """
    *filters, n_units = widths
    shapes = {}
    for i, (width, size) in enumerate(zip(filters, KERNELS, strict=True), start=1):
        grid = Grid((size, size), channels)
        shapes[f"conv{i}"] = Shape(grid.n_visible, width, grid)
        channels, side = width, (side + 1 - size % 2) // 2
    return {**shapes, "hidden": Shape(channels * side * side, n_units)}


def narrow_widths(fraction: float, channels: int, side: int) -> tuple[int, ...]:
    """Widths of the narrowest dense convnet with as many weights as the predicted one learns.

    Args:
        fraction: share of the weights that the predicted network learns.
        channels: of an image.
        side: height and width of an image, in pixels.
    """
    wanted = _count(layer_shapes(WIDTHS, channels, side), fraction, WIDTHS[-1])
    for percent in range(1, 101):
        widths = tuple(max(1, round(percent * width / 100)) for width in WIDTHS)
        if _count(layer_shapes(widths, channels, side), 1.0, widths[-1]) >= wanted:
            return widths
    return WIDTHS


def _count(layers: Mapping[str, Shape], fraction: float, n_hidden: int) -> int:
    """Learned weights and biases, the classifier's too."""
    units = (round(fraction * s.n_visible) * s.n_units + s.n_units for s in layers.values())
    return sum(units) + (n_hidden + 1) * N_CLASSES
