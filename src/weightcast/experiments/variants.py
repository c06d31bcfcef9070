"""The networks that the demo compares: dense, 5 % and 2 % learned, narrow dense, low-rank."""

from __future__ import annotations

from dataclasses import dataclass

from weightcast.dictionaries import DCT, Kernel, LowRank
from weightcast.experiments.train import build_model
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.ledger import ledger
from weightcast.plan import Plan
from weightcast.rule import Rule
from weightcast.training import Images, ModelSettings, TrainConfig, TrainingSettings

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
    predicted = [_predicted(fraction, images) for fraction in (0.05, 0.02)]
    n_learned = _count_learned(predicted[0], images)
    width = matching_width(n_learned, n_visible, images.n_classes)
    return [
        Variant("dense", f"The network {sizes}; every weight is learned."),
        *predicted,
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


def _predicted(fraction: float, images: Images) -> Variant:
    channels, height, width = images.shape
    name = f"{100 * fraction:g} % learned"
    return Variant(
        name,
        f"The dense network, with {100 * fraction:g} % of each hidden layer's weights learned and "
        f"the rest predicted from them: in hidden1 by a smooth kernel on the {height} x {width} "
        "pixels, in hidden2 by random frequencies of a cosine transform. The classifier and the "
        "biases are learned whole.",
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
