"""What it takes to predict figure 5's convnet: one thing changed at a time, on validation images.

    python -m weightcast_lab.studies.convnet --data path/to/cifar10 \
        --table results/fig5_validation.csv

All layers but the classifier are predicted, a tenth of each is learned, in four columns, unless the
name says otherwise. Of the training images 5,000 are set aside and choices made on those; 5,000
others are trained on. A sweep does the work, so that a second call does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weightcast.cli.result_rows import row_counts
from weightcast.dictionaries import (
    Covariance,
    Dictionary,
    Kernel,
    RandomConnections,
    RandomGaussian,
)
from weightcast.kernels import SquaredExponential
from weightcast.layers import predicted_layers
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.bench.scripts import make_parser, read_finished, write_csv
from weightcast_lab.studies.figure5 import WIDTHS, layer_shapes
from weightcast_lab.sweeps.rows import Row, append_row, make_row, read_rows
from weightcast_lab.sweeps.sweep import sweep
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings, fit
from weightcast_lab.training.build import build_model, read_data

SHAPES = layer_shapes(WIDTHS, channels=3, side=32)
CONVOLUTIONS = ("conv1", "conv2", "conv3")
FRACTION, COLUMNS, EPOCHS = 0.1, 4, 10
SE, SE_1PX = Kernel(SquaredExponential(2.0)), Kernel(SquaredExponential(1.0))
EMP, GAUSSIAN, GROUPED = Covariance(), RandomGaussian(), RandomConnections("grouped")
LEADING = Covariance(selection="leading")


def plan(
    convolutions: Dictionary,
    hidden: Dictionary,
    *,
    columns: int | Mapping[str, int] = COLUMNS,
    fraction: float = FRACTION,
    layers: tuple[str, ...] = (*CONVOLUTIONS, "hidden"),
    conv1: Dictionary | None = None,
) -> Plan:
    """A plan for some layers: one dictionary for the convolutions, one for the layer above."""
    rules = {}
    for name in layers:
        dictionary = hidden if name == "hidden" else convolutions
        if name == "conv1" and conv1 is not None:
            dictionary = conv1
        n = columns if isinstance(columns, int) else columns[name]
        rules[name] = Rule(dictionary, fraction, n, SHAPES[name].grid)
    return Plan(rules)


def networks() -> Iterator[tuple[str, Plan | None, TrainingSettings]]:
    """Name, plan and training of everything that is compared."""
    usual = TrainingSettings(EPOCHS)
    yield "dense", None, usual
    yield "SE-Emp", plan(SE, EMP), usual
    yield "RandFixU", plan(GAUSSIAN, GAUSSIAN), usual
    # Which layer costs what.
    for layer in (*CONVOLUTIONS, "hidden"):
        yield f"SE-Emp, {layer} only", plan(SE, EMP, layers=(layer,)), usual
    # Dictionaries.
    yield "SE-RandFixU", plan(SE, GAUSSIAN), usual
    yield "SE-Emp, 1 px", plan(SE_1PX, EMP), usual
    yield "SE-Emp, shared positions", plan(replace(SE, positions="shared"), EMP), usual
    grouped = {"conv1": COLUMNS, "conv2": 10, "conv3": 10, "hidden": 10}
    yield "SE-Grouped", plan(GROUPED, GROUPED, columns=grouped, conv1=SE), usual
    yield "SE-Emp, columns 16", plan(SE, EMP, columns=16), usual
    yield "Emp-Emp leading", plan(LEADING, LEADING), usual
    yield "Emp-Emp leading, columns 1", plan(LEADING, LEADING, columns=1), usual
    for columns in (1, 2):
        its_plan = plan(LEADING, LEADING, columns=columns, fraction=0.25)
        yield f"Emp-Emp leading, 25 %, columns {columns}", its_plan, usual
    # The two layers that cost most, alone, with other dictionaries.
    yield "Emp leading, conv1 only", plan(LEADING, EMP, layers=("conv1",)), usual
    yield "RandFixU, conv1 only", plan(GAUSSIAN, EMP, layers=("conv1",)), usual
    yield "Emp leading, hidden only", plan(SE, LEADING, layers=("hidden",)), usual
    # Rates: of V alone, and of everything.
    one_rate = replace(usual, learning_rate_V=usual.learning_rate)
    yield "SE-Emp, V at the dense rate", plan(SE, EMP), one_rate
    for name, its_plan, rate in (
        ("SE-Emp", plan(SE, EMP), 0.004),
        ("dense", None, 0.004),
        ("dense", None, 0.001),
        ("Emp-Emp leading", plan(LEADING, LEADING), 0.001),
    ):
        yield f"{name}, rate {rate:g}", its_plan, replace(usual, learning_rate=rate)


def longer() -> Iterator[tuple[str, Plan | None, TrainingSettings]]:
    """Some of them with three times as many epochs."""
    chosen = ("dense", "Emp-Emp leading")
    for name, its_plan, settings in networks():
        if name in chosen:
            yield f"{name}, 30 epochs", its_plan, replace(settings, epochs=3 * EPOCHS)


def make_config(
    name: str, its_plan: Plan | None, settings: TrainingSettings, seed: int, data: str
) -> TrainConfig:
    """One run: trained on 5,000 images, judged on 5,000 others."""
    return TrainConfig(
        data=data,
        model=ModelSettings("convnet"),
        plan=None if its_plan is None else its_plan.to_dict(),
        training=settings,
        seed=seed,
        n_validation=5_000,
        n_train=5_000,
        experiment="fig5-validation",
        variant=name,
    )


def scaled_run(config: TrainConfig, scale: float, place: Place) -> Row:
    """A run whose V all start ``scale`` times as large as they are drawn."""
    images = read_data(config, str(place.data))
    model = build_model(config, images)
    with torch.no_grad():
        for layer in predicted_layers(model).values():
            layer.V.mul_(scale)
    result = fit(model, images, config.training, seed=config.seed, progress=False)
    return make_row(
        experiment=config.experiment,
        variant=f"{config.variant}, V {scale:g} times as large at first",
        dataset=config.data,
        seed=config.seed,
        config=config.to_dict(),
        counts=row_counts(ledger(model, batch=config.training.batch_size)),
        metrics={
            name: getattr(result, name)
            for name in ("validation_error", "train_loss", "train_seconds")
        },
    )


def without_test(row: Row) -> dict[str, Any]:
    """The row as a study may keep it: nothing is chosen by the test images, so none shows."""
    metrics = {k: v for k, v in row["metrics"].items() if k != "test_error"}
    return {**row, "metrics": metrics}


def main() -> None:
    """Run what is missing, print a table and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="folder, prepared file or Hub name")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)", help="in rows")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", default="runs/convnet-study", help="the sweep's folder")
    parser.add_argument("--table", type=Path, help="write a line for every run here, as CSV")
    options = parser.parse_args()
    place = Place(data=options.data)
    trials = [
        Trial("train", make_config(*network, seed, options.data_name))
        for seed in range(options.seeds)
        for network in (*networks(), *(longer() if seed == 0 else ()))
    ]
    rows = [without_test(row) for row in sweep(trials, options.output, place=place).rows]
    base = next(network for network in networks() if network[0] == "SE-Emp")
    extra = Path(options.output) / "scaled.jsonl"
    done = read_finished(extra)
    for seed in range(options.seeds):
        for scale in (0.3, 3.0):
            config = make_config(*base, seed, options.data_name)
            name = f"{config.variant}, V {scale:g} times as large at first"
            if not any(row["variant"] == name and row["seed"] == seed for row in done):
                append_row(extra, scaled_run(config, scale, place))
    rows += read_rows(extra)
    names = dict.fromkeys(row["variant"] for row in rows)
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        errors = [row["metrics"]["validation_error"] for row in own]
        losses = [row["metrics"]["train_loss"] for row in own]
        print(
            f"{name:48s} {sum(errors) / len(errors):6.2f} %  n {len(own)}  "
            f"training loss {sum(losses) / len(losses):.2f}"
        )
    if options.table is not None:
        write_csv(options.table, [table_line(row) for row in rows])


def table_line(row: Row) -> dict[str, Any]:
    """A run as a line of a table. It is no row of results: those have a test error."""
    metrics = row["metrics"]
    return {
        "network": row["variant"],
        "seed": row["seed"],
        "learned": row["counts"]["learned"],
        "validation_error": metrics["validation_error"],
        "train_loss": f"{metrics['train_loss']:.4f}",
    }


if __name__ == "__main__":
    main()
