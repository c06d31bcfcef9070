"""Figure 4 of the paper: MNIST, test error against the share of weights that is learned.

One curve for each pair of dictionaries in the network 784-500-500-10.
References: Denil et al. 2013, section 4.1 and figure 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weightcast.grid import Grid
from weightcast_lab.networks.feedforward import ActivationName
from weightcast_lab.sweeps.curves import (
    DENSE,
    NARROW,
    Shape,
    all_curves,
    find_curve,
    make_plan,
    paper_curves,
    variations,
)
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.sweeps.variants import HIDDEN, matching_width
from weightcast_lab.training import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.25)
ALL_FRACTIONS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
NEVER_WHOLE = (NARROW, "SE-Emp leading", "SE-Emp orthonormal")
"""All of their weights would be the dense network itself, or more atoms than there are to find."""

IMAGE, N_CLASSES = (28, 28), 10


@dataclass(frozen=True)
class MLPSetting:
    """What the networks of one family of curves have in common.

    Args:
        columns: groups of units with atoms of their own.
        activation: after the hidden layers.
        pretraining: of the hidden layers; None leaves it out.
        training: on the labels.
    """

    columns: int
    activation: ActivationName
    pretraining: PretrainingSettings | None
    training: TrainingSettings


def trials(preset: Preset, seeds: int, data: str) -> list[Trial]:
    """The runs behind the figure.

    Args:
        preset: ``smoke``, a few short runs; ``cpu``, every curve at ten columns and five
            fractions, the paper's also at one column and with sigmoids, pairs with one thing
            changed, and what more columns and pre-training change at 5 % learned; ``full``,
            everything at ten fractions.
        seeds: runs of each point.
        data: what the data is called.

    Raises:
        ValueError: an unknown preset, or no seeds.
    """
    points = {"smoke": _smoke, "cpu": _cpu, "full": _full}[check_preset(preset, seeds)]()
    return with_seeds(
        points, seeds, lambda point, seed: Trial("train", make_config(*point, seed, data))
    )


MLPPoint = tuple[str, float, MLPSetting]


def _smoke() -> list[MLPPoint]:
    setting = _setting(epochs=1)
    names = (DENSE, NARROW, "LowRank", "RandFixU-RandFixU", "SE-Emp")
    return [*_curves(names, (0.05,), setting)]


def _cpu() -> list[MLPPoint]:
    main = _setting(epochs=3)
    one, many = replace(main, columns=1), replace(main, columns=20)
    sigmoid = replace(main, activation="sigmoid")
    pretrained = replace(sigmoid, pretraining=PretrainingSettings(epochs=2))
    paper = [name for name, curve in paper_curves().items() if curve.takes_columns]
    trained = ("RandFixU-RandFixU", "SE-Emp", "SE-Emp2", "SE-AE", "Emp-Emp")
    return [
        *_curves((DENSE, NARROW, *all_curves()), FRACTIONS, main),
        *_curves(paper, FRACTIONS, one),
        *_curves(("RandCon-RandCon", "RandFixU-RandFixU", "SE-Emp"), (0.05,), many),
        *_curves(tuple(variations()), (0.02, 0.05), main),
        *_curves((DENSE, NARROW, *paper_curves()), FRACTIONS, sigmoid),
        *_curves((DENSE, *trained), (0.05,), pretrained),
    ]


def _full() -> list[MLPPoint]:
    names = (DENSE, NARROW, *all_curves())
    return [
        point
        for activation in ("relu", "sigmoid")
        for pretraining in (None, PretrainingSettings(epochs=10))
        for columns in (1, 5, 10, 20)
        for point in _curves(
            names,
            ALL_FRACTIONS,
            replace(
                _setting(epochs=30),
                columns=columns,
                activation=activation,
                pretraining=pretraining,
            ),
        )
    ]


def _setting(epochs: int) -> MLPSetting:
    training = TrainingSettings(epochs=epochs, learning_rate=2e-3, label_smoothing=0.1)
    return MLPSetting(columns=10, activation="relu", pretraining=None, training=training)


def _curves(
    names: Sequence[str], fractions: Sequence[float], setting: MLPSetting
) -> Iterator[MLPPoint]:
    """Every point of these curves; the dense network is one point."""
    for name in names:
        for fraction in (1.0,) if name == DENSE else fractions:
            if not (fraction == 1 and name in NEVER_WHOLE):
                yield name, fraction, setting


def make_config(
    name: str, fraction: float, setting: MLPSetting, seed: int, data: str
) -> TrainConfig:
    """One run.

    Args:
        name: of the curve.
        fraction: share of the hidden layers' weights that is learned.
        setting: what it has in common with other curves.
        seed: of the run.
        data: what the data is called.
    """
    labels: dict[str, object] = {"curve": name, "fraction": fraction}
    hidden, plan = HIDDEN, None
    if name == NARROW:
        width = matching_width(_count_learned(fraction), _n_visible(), N_CLASSES)
        hidden = (width, width)
    elif name != DENSE:
        curve = find_curve(name)
        plan = make_plan(curve, _layers(), fraction, setting.columns).to_dict()
        if curve.takes_columns:
            labels["columns"] = setting.columns
    labels |= {
        "activation": setting.activation,
        "pretrained": setting.pretraining is not None,
    }
    return TrainConfig(
        data=data,
        model=ModelSettings(activation=setting.activation, hidden=hidden),
        plan=plan,
        training=setting.training,
        pretraining=setting.pretraining,
        seed=seed,
        experiment="fig4",
        variant=describe(labels),
        labels=labels,
    )


def describe(labels: Mapping[str, object]) -> str:
    """What a run is called in tables: its curve and what sets it apart."""
    text = f"{labels['curve']}, {100 * float(str(labels['fraction'])):g} %"
    if "columns" in labels:
        text += f", columns {labels['columns']}"
    if "activation" in labels:
        text += f", {labels['activation']}"
    return f"{text}, pre-trained" if labels.get("pretrained") else text


def _layers() -> dict[str, Shape]:
    first, second = HIDDEN
    return {
        "hidden1": Shape(_n_visible(), first, Grid(IMAGE)),
        "hidden2": Shape(first, second),
    }


def _n_visible() -> int:
    height, width = IMAGE
    return height * width


def _count_learned(fraction: float) -> int:
    """Weights and biases that the network learns at this fraction."""
    predicted = sum(round(fraction * s.n_visible) * s.n_units for s in _layers().values())
    return predicted + sum(HIDDEN) + (HIDDEN[-1] + 1) * N_CLASSES
