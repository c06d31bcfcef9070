"""The runs behind the speech figure: error against the share of weights that is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from weightcast.dictionaries import Covariance, RandomGaussian
from weightcast.grid import Grid
from weightcast_lab.data.speech import FeatureSettings
from weightcast_lab.studies.figure4 import describe
from weightcast_lab.studies.speech_config import SpeechConfig
from weightcast_lab.sweeps.curves import DENSE, Curve, Shape, make_plan, paper_curves
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import PretrainingSettings, TrainingSettings

OURS = "Emp leading-Orthonormal"
MAIN = ("LowRank", "RandFixU-RandFixU", "Emp-Emp", OURS)
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.25)
ALL_FRACTIONS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
COLUMNS = (1, 5, 20)
RATE = 4e-3
"""Of 0.002 and 0.004 the better one on validation recordings of FSDD, dense and predicted."""
VALIDATION_SPEAKERS = 46
"""A tenth of TIMIT's training speakers, on whom the decoder's change of phone is chosen."""


@dataclass(frozen=True)
class _SpeechPoint:
    """One place in the figure.

    Args:
        curve: its name.
        fraction: share of the hidden layers' weights that is learned.
        columns: groups of units with atoms of their own; None where the curve has none.
        activation: after the hidden layers.
        pretraining: of the hidden layers; None leaves it out.
    """

    curve: str
    fraction: float
    columns: int | None = 10
    activation: Literal["relu", "sigmoid"] = "relu"
    pretraining: PretrainingSettings | None = None


def curves() -> dict[str, Curve]:
    """The paper's pairs of dictionaries, and ours.

    Ours deals the leading eigenvectors of the inputs' covariance to the columns in turn, where Emp
    draws inputs at random; and takes random orthonormal atoms for the codes. Of twenty-one pairs
    at 5 % learned and ten columns it had the least frame error on FSDD's validation recordings.
    """
    leading = Curve(Covariance(selection="leading"), RandomGaussian("orthonormal"))
    return {**paper_curves(), OURS: leading}


def trials(preset: Preset, seeds: int, data: str) -> list[Trial]:
    """The runs of a preset.

    Args:
        preset: ``smoke``, five short runs on 60 recordings; ``cpu``, four pairs of dictionaries at
            ten columns and five fractions, and what columns change at 5 % learned; ``full``, all
            pairs at all fractions, with and without pre-training, ReLU and sigmoid.
        seeds: runs of each point.
        data: ``fsdd`` or ``timit``.

    Raises:
        ValueError: an unknown preset, no seeds, or other data.
    """
    preset = check_preset(preset, seeds)
    base = _base(preset, data)
    return with_seeds(
        _points(preset), seeds, lambda point, seed: Trial("speech", _config(base, point, seed))
    )


def _base(preset: Preset, data: str) -> SpeechConfig:
    """What all runs of a preset have in common."""
    if data not in ("fsdd", "timit"):
        raise ValueError(
            f"data is {data!r}: the speech experiment reads 'fsdd', the Free Spoken Digit Dataset, "
            "or 'timit', your own copy of TIMIT"
        )
    epochs = {"smoke": 1, "cpu": 8, "full": 20}[preset]
    training = TrainingSettings(
        epochs=epochs, batch_size=256, learning_rate=RATE, label_smoothing=0.1
    )
    if data == "timit":
        return SpeechConfig(
            data=data,
            corpus="timit",
            training=training,
            n_validation=VALIDATION_SPEAKERS,
            max_recordings={"smoke": 60, "cpu": 200, "full": None}[preset],
        )
    return SpeechConfig(
        data=data,
        training=training,
        features=FeatureSettings(shift=10.0 if preset == "full" else 20.0),
        max_recordings=60 if preset == "smoke" else None,
    )


def _points(preset: Preset) -> list[_SpeechPoint]:
    if preset == "smoke":
        return list(_of((DENSE, *MAIN), (0.05,), _SpeechPoint(DENSE, 1.0)))
    if preset == "cpu":
        columns = [_SpeechPoint(DENSE, 1.0, columns=c) for c in COLUMNS]
        spread = [p for base in columns for p in _of(MAIN[1:], (0.05,), base)]
        return [*_of((DENSE, *MAIN), FRACTIONS, _SpeechPoint(DENSE, 1.0)), *spread]
    return [
        point
        for activation in ("relu", "sigmoid")
        for pretraining in (None, PretrainingSettings())
        for columns in (1, 5, 10, 20)
        for point in _of(
            (DENSE, *curves()),
            ALL_FRACTIONS,
            _SpeechPoint(DENSE, 1.0, columns, activation, pretraining),
        )
    ]


def _of(
    names: Sequence[str], fractions: Sequence[float], base: _SpeechPoint
) -> Iterator[_SpeechPoint]:
    """All points of these curves; the dense network is one point."""
    known = curves()
    for name in names:
        takes_columns = name in known and known[name].takes_columns
        columns = base.columns if takes_columns else None
        for fraction in (1.0,) if name == DENSE else fractions:
            yield replace(base, curve=name, fraction=fraction, columns=columns)


def _config(base: SpeechConfig, point: _SpeechPoint, seed: int) -> SpeechConfig:
    labels: dict[str, object] = {"curve": point.curve, "fraction": point.fraction}
    plan = None
    if point.curve != DENSE:
        curve, columns = curves()[point.curve], point.columns or 1
        plan = make_plan(curve, layer_shapes(base), point.fraction, columns).to_dict()
    labels |= {} if point.columns is None else {"columns": point.columns}
    labels |= {"activation": point.activation, "pretrained": point.pretraining is not None}
    return replace(
        base,
        variant=describe(labels),
        activation=point.activation,
        plan=plan,
        pretraining=point.pretraining,
        seed=seed,
        labels=labels,
    )


def layer_shapes(config: SpeechConfig) -> dict[str, Shape]:
    """The hidden layers; time and frequency are the coordinates of the first one's inputs."""
    grid = (2 * config.context + 1, config.features.bands)
    sizes = (grid[0] * grid[1], *config.hidden)
    pairs = zip(sizes, config.hidden, strict=False)
    layers = {f"hidden{i}": Shape(*pair) for i, pair in enumerate(pairs, start=1)}
    return layers | {"hidden1": replace(layers["hidden1"], grid=Grid(grid))}
