"""How the speech experiment's dictionaries and rate were chosen, on validation recordings alone.

    python -m weightcast_lab.studies.speech_validation --data path/to/fsdd \
        --table results/speech_validation.csv

All networks but the dense one learn 5 % of their hidden layers in ten columns; frames start every
20 ms. Of each speaker and digit five training recordings are set aside, and the table has their
errors. A sweep does the work, so that a second call does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightcast.dictionaries import (
    DCT,
    Covariance,
    Dictionary,
    Kernel,
    LocalKernel,
    RandomConnections,
    RandomGaussian,
)
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.bench.scripts import make_parser, write_csv
from weightcast_lab.data.speech import FeatureSettings
from weightcast_lab.studies.speech_config import SpeechConfig
from weightcast_lab.studies.speech_trials import layer_shapes
from weightcast_lab.sweeps.curves import DENSE
from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.sweep import sweep
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import PretrainingSettings, TrainingSettings

FRACTION, COLUMNS, EPOCHS, N_VALIDATION = 0.05, 10, 3, 5
BASE = SpeechConfig(
    experiment="speech-validation",
    features=FeatureSettings(shift=20.0),
    training=TrainingSettings(epochs=EPOCHS, batch_size=256, label_smoothing=0.1),
    n_validation=N_VALIDATION,
)

EMP, LEADING = "covariance (Emp)", "covariance, leading eigenvectors"
ROTATIONS, GAUSSIAN = "random orthonormal", "Gaussian (RandFixU)"
NEXT = "next units of the layer below"
SE = SquaredExponential(2.0)
DICTIONARIES: dict[str, Dictionary] = {
    EMP: Covariance(),
    LEADING: Covariance(selection="leading"),
    "covariance, orthonormal atoms": Covariance(mixing="orthonormal"),
    ROTATIONS: RandomGaussian("orthonormal"),
    GAUSSIAN: RandomGaussian(),
    NEXT: RandomConnections("grouped"),
    "DCT, random frequencies": DCT(),
    "DCT, lowest frequencies": DCT("leading"),
    "SE 2 cells": Kernel(SE),
    "SE 2 cells, leading eigenvectors": Kernel(SE, selection="leading"),
    "SE 2 cells, orthonormal atoms": Kernel(SE, mixing="orthonormal"),
    "windows of 1.5 cells, SE 3 cells": LocalKernel(SquaredExponential(3.0), 1.5),
    "windows of 2 cells, SE 2 cells": LocalKernel(SE, 2.0),
    "windows of 3 cells, SE 2 cells": LocalKernel(SE, 3.0),
}


@dataclass(frozen=True)
class SpeechChoice:
    """One line of the table.

    Args:
        hidden1: the first hidden layer's dictionary, by its name in ``DICTIONARIES``, or dense.
        hidden2: the second one's.
        learning_rate: the largest one of the schedule.
        epochs: passes over the training frames.
        pretraining_epochs: before them; 0 leaves pre-training out.
    """

    hidden1: str
    hidden2: str
    learning_rate: float
    epochs: int = EPOCHS
    pretraining_epochs: int = 0


def choices() -> Iterator[SpeechChoice]:
    """All that was tried."""
    for rate in (1e-3, 2e-3, 4e-3):
        yield SpeechChoice(DENSE, DENSE, rate)
    windows = [name for name in DICTIONARIES if name.startswith("windows")]
    first = "covariance, orthonormal atoms", "DCT, random frequencies"
    for name in (EMP, LEADING, GAUSSIAN, ROTATIONS, *first):
        yield SpeechChoice(name, name, 2e-3)
    for name in (EMP, LEADING, ROTATIONS, "DCT, lowest frequencies", "SE 2 cells", *windows):
        yield SpeechChoice(name, NEXT, 2e-3)
    yield SpeechChoice("SE 2 cells", EMP, 2e-3)
    yield SpeechChoice(windows[-1], EMP, 2e-3)
    yield SpeechChoice(LEADING, ROTATIONS, 2e-3)
    yield SpeechChoice(ROTATIONS, LEADING, 2e-3)
    for name in (EMP, LEADING, GAUSSIAN, ROTATIONS):
        yield SpeechChoice(name, name, 4e-3)
    second = "SE 2 cells, leading eigenvectors", "SE 2 cells, orthonormal atoms"
    for name in (LEADING, *second, windows[-1]):
        yield SpeechChoice(name, ROTATIONS, 4e-3)
    yield SpeechChoice(EMP, EMP, 4e-3, pretraining_epochs=2)
    for rate in (2e-3, 4e-3):
        yield SpeechChoice(DENSE, DENSE, rate, epochs=6)
    for rate in (4e-3, 8e-3):
        yield SpeechChoice(LEADING, ROTATIONS, rate, epochs=6)
    yield SpeechChoice(EMP, EMP, 8e-3, epochs=6)


def make_config(choice: SpeechChoice, base: SpeechConfig = BASE, seed: int = 0) -> SpeechConfig:
    """One run.

    Args:
        choice: what is tried.
        base: what all runs have in common.
        seed: of the run.
    """
    plan = None
    if choice.hidden1 != DENSE:
        shapes, names = layer_shapes(base), {"hidden1": choice.hidden1, "hidden2": choice.hidden2}
        rules = {
            layer: Rule(DICTIONARIES[name], FRACTION, COLUMNS, shapes[layer].grid)
            for layer, name in names.items()
        }
        plan = Plan(rules).to_dict()
    epochs = choice.pretraining_epochs
    return replace(
        base,
        variant=f"{choice.hidden1}; {choice.hidden2}",
        plan=plan,
        training=replace(base.training, learning_rate=choice.learning_rate, epochs=choice.epochs),
        pretraining=PretrainingSettings(epochs=epochs) if epochs else None,
        seed=seed,
    )


def table_line(choice: SpeechChoice, row: Row) -> dict[str, Any]:
    """A run as a line of the table, without what it did on the test recordings."""
    metrics = row["metrics"]
    return {
        "hidden1": choice.hidden1,
        "hidden2": choice.hidden2,
        "learning_rate": choice.learning_rate,
        "epochs": choice.epochs,
        "pretraining_epochs": choice.pretraining_epochs,
        "learned": row["counts"]["learned"],
        "frame_error_percent": round(metrics["validation_error"], 2),
        "digit_error_percent": round(metrics["validation_digit_error"], 2),
        "train_loss": round(metrics["train_loss"], 3),
    }


def main() -> None:
    """Run what is missing and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="the folder that holds recordings/")
    parser.add_argument("--output", default="runs/speech-validation", help="the sweep's folder")
    parser.add_argument("--table", type=Path, required=True, help="write a line for every run here")
    parser.add_argument("--only", help="runs whose dictionaries' names contain this")
    options = parser.parse_args()
    tried = [(choice, Trial("speech", make_config(choice))) for choice in choices()]
    if options.only is not None:
        tried = [(choice, one) for choice, one in tried if options.only in one.config.variant]
    place = Place(data=options.data)
    rows = sweep([one for _, one in tried], options.output, place=place).rows
    found = {row["trial"]: row for row in rows}
    lines = [table_line(choice, found[one.key]) for choice, one in tried if one.key in found]
    write_csv(options.table, lines)


if __name__ == "__main__":
    main()
