"""A tiny backlog on the packaged digits: a cell whose rate is chosen, and one without a choice."""

from dataclasses import replace
from pathlib import Path

from weightcast_lab.studies.evidence import make_choice, make_runs
from weightcast_lab.studies.figure4 import MLPSetting, make_config
from weightcast_lab.sweeps.backlog import Backlog, work
from weightcast_lab.sweeps.cells import Cell
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)

RATES = (1e-3, 3e-2)


def config(rate, seed, epochs):
    """A pair of figure 4, pre-trained, in two dictionaries made from data."""
    setting = MLPSetting(
        columns=2,
        activation="sigmoid",
        pretraining=PretrainingSettings(epochs=1),
        training=TrainingSettings(epochs=epochs, learning_rate=rate),
    )
    made = make_config("Emp-Emp", 0.05, setting, seed, "digits")
    return replace(made, n_train=1000, n_inputs=1000, n_validation=500, experiment="tiny")


def cells(epochs=2, seeds=2, dense_seeds=2, **changes):
    """The backlog's cells."""
    dense = [
        TrainConfig(
            model=ModelSettings(hidden=(8, 8)),
            training=TrainingSettings(epochs=epochs),
            seed=seed,
            variant="dense",
            experiment="tiny",
        )
        for seed in range(dense_seeds)
    ]
    chosen = {rate: make_choice(config(rate, 0, epochs)) for rate in RATES}
    return [
        Cell(
            "pair",
            "Does it learn?",
            "pair.jsonl",
            lambda rate: make_runs(lambda r, seed: config(r, seed, epochs), rate)[:seeds],
            chosen,
            **changes,
        ),
        Cell(
            "dense",
            "What it is compared with.",
            "dense.jsonl",
            lambda _: [Trial("train", one) for one in dense],
            {},
        ),
    ]


def run(root: Path, results: Path, seconds: float, **arguments) -> bool:
    """Work it off, one trial at a time, and print the trials that were done."""
    backlog = Backlog(cells(**arguments), root, results)
    return work(
        backlog, Place(), seconds=seconds, jobs={False: 1}, say=lambda line: print(line, flush=True)
    )
