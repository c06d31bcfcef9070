"""The networks that the demo compares: dense, predicted three times, narrow dense, low-rank."""

from __future__ import annotations

from dataclasses import dataclass

from weightcast.dictionaries import DCT, Kernel, LocalKernel, LowRank, RandomConnections
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.sweeps.curves import MARGIN
from weightcast_lab.training import Images, ModelSettings, TrainConfig, TrainingSettings
from weightcast_lab.training.build import build_model

HIDDEN = (500, 500)
COLUMNS = 20
KERNEL = Kernel(SquaredExponential(length_scale=2.0))


@dataclass(frozen=True)
class Variant:
    """One network of the comparison.

    Args:
        name: in tables and rows.
        description: what it is, in a sentence or two.
        hidden: units of each hidden layer.
        plan: which layers are predicted, and how; None leaves all dense.
    """

    name: str
    description: str
    hidden: tuple[int, ...] = HIDDEN
    plan: Plan | None = None


def make_variants(images: Images) -> list[Variant]:
    """The networks that are compared on these images."""
    n_visible = images.train[0][0].numel()
    sizes = "-".join(map(str, (n_visible, *HIDDEN, images.n_classes)))
    local = _local("5 % learned", 0.05, 20, images, length_scale=3.0, window=1.5)
    width = matching_width(_count_learned(local, images), n_visible, images.n_classes)
    return [
        Variant("dense", f"The network {sizes}; every weight is learned."),
        local,
        _local("2 % learned", 0.02, 50, images, length_scale=2.0, window=2.0),
        _whole("5 % learned, no windows", 0.05, images),
        Variant(
            "narrow dense",
            f"The network {n_visible}-{width}-{width}-{images.n_classes}: all its weights are "
            "learned, and they are as many as in the network with 5 % learned.",
            hidden=(width, width),
        ),
        Variant(
            "low-rank",
            f"The network {sizes}, but each hidden layer's weights are the product of two thin "
            "matrices and both are learned, together about 5 % of the layer's weights.",
            plan=Plan(
                {
                    "hidden1": _low_rank(0.05, n_visible, HIDDEN[0]),
                    "hidden2": _low_rank(0.05, *HIDDEN),
                }
            ),
        ),
    ]


def matching_width(n_learned: int, n_visible: int, n_classes: int) -> int:
    """The width of the narrowest dense network with at least ``n_learned`` weights.

    Args:
        n_learned: weights and biases to match.
        n_visible: inputs of the network.
        n_classes: its outputs.

    Returns:
        Units of each of its two hidden layers.
    """
    width = 1
    while (n_visible + 1) * width + (width + 1) * (width + n_classes) < n_learned:
        width += 1
    return width


def make_config(variant: Variant, data: str, settings: TrainingSettings, seed: int) -> TrainConfig:
    """One run, as ``weightcast train`` would take it."""
    return TrainConfig(
        data=data,
        model=ModelSettings(hidden=variant.hidden),
        plan=None if variant.plan is None else variant.plan.to_dict(),
        training=settings,
        seed=seed,
        experiment="demo",
        variant=variant.name,
    )


def _local(
    name: str, fraction: float, columns: int, images: Images, *, length_scale: float, window: float
) -> Variant:
    channels, height, width = images.shape
    dictionary = LocalKernel(SquaredExponential(length_scale), window, margin=MARGIN * height)
    return Variant(
        name,
        f"The dense network with {100 * fraction:g} % of each hidden layer's weights learned, the "
        f"rest predicted from them. Its units are in {columns} groups. In hidden1 each group looks "
        "through a window of its own, at smooth patterns made from a Gaussian kernel; in hidden2 "
        "each sees the next few of the units below. Classifier and biases are learned whole.",
        plan=Plan(
            {
                "hidden1": Rule(dictionary, fraction, columns, Grid((height, width), channels)),
                "hidden2": Rule(RandomConnections("grouped"), fraction, columns),
            }
        ),
    )


def _whole(name: str, fraction: float, images: Images) -> Variant:
    channels, height, width = images.shape
    return Variant(
        name,
        "As many learned weights, but without windows, as in the paper: in hidden1 each of "
        f"{COLUMNS} groups predicts its filters from known weights all over the {height} x {width} "
        "pixels by kernel ridge regression; hidden2 has random frequencies of a cosine transform.",
        plan=Plan(
            {
                "hidden1": Rule(KERNEL, fraction, COLUMNS, Grid((height, width), channels)),
                # Any fixed orthonormal atoms do; these need no room in the checkpoint.
                "hidden2": Rule(DCT(), fraction, COLUMNS),
            }
        ),
    )


def _low_rank(fraction: float, n_visible: int, n_units: int) -> Rule:
    return Rule(LowRank(), LowRank.matching_fraction(fraction, n_visible, n_units))


def _count_learned(variant: Variant, images: Images) -> int:
    model = build_model(make_config(variant, images.name, TrainingSettings(), seed=0), images)
    return ledger(model).total.learned
