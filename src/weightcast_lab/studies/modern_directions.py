"""Modern networks whose informed dictionaries see the inputs of a network that has been trained.

    python -m weightcast_lab.studies.modern_directions gpt \
        --data tinyshakespeare=path/to/input.txt --fractions 0.1 0.25 --after 0.1 1 \
        --rows results/modern_directions.jsonl

``weightcast reproduce`` takes the leading directions of each layer's inputs in the network before
training. Here they are those of the dense network of the same seed after it was trained on a share
of the data (``--after``), at the same settings. Nothing else is taken from that network: V, biases
and dense layers are those before training, and steps and rate are the preset ``cpu``'s, so that a
row differs from the curve *informed* of ``results/modern.jsonl`` by its directions alone. What the
file holds already is not computed again.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightcast.layers.counts import ledger
from weightcast_lab.bench.scripts import make_parser, mean_and_spread, read_finished, say
from weightcast_lab.studies.figure4 import describe
from weightcast_lab.studies.modern import INFORMED, cpu_setting, make_config
from weightcast_lab.studies.train import result_row
from weightcast_lab.sweeps.rows import Row, append_row
from weightcast_lab.training import Images, Text, TrainConfig, fit
from weightcast_lab.training.build import apply_plan, dense_model, read_data


def make_run(network: str, data: str, fraction: float, after: float, seed: int) -> TrainConfig:
    """The run of the curve *informed*, under a name of its own."""
    labels = {"curve": f"{INFORMED} after {after:.0%}", "fraction": fraction}
    return replace(
        make_config(INFORMED, fraction, cpu_setting(network), seed, data),
        experiment=f"modern-{network}-directions",
        variant=describe(labels),
        labels=labels,
    )


def trained(config: TrainConfig, data: Images | Text, after: float) -> nn.Module:
    """The dense network after training on a share of the data."""
    dense = dense_model(config, data.shape, data.n_classes)
    part = data.fewer(round(after * len(data.train[0])))
    fit(dense, part, config.training, seed=config.seed, progress=False)
    return dense


def with_directions_of(source: nn.Module, config: TrainConfig, data: Images | Text) -> nn.Module:
    """The predicted network before training, but for its atoms, which see the inputs in another.

    Args:
        source: dense, trained.
        config: the run.
        data: of which the inputs are a part.
    """
    model = apply_plan(copy.deepcopy(source).eval(), config, data).train()
    return with_weights_of(dense_model(config, data.shape, data.n_classes), model)


def with_weights_of(fresh: nn.Module, model: nn.Module) -> nn.Module:
    """A predicted network with all that a dense one has too as it is there; V and atoms stay."""
    own = fresh.state_dict()
    model.load_state_dict({key: own.get(key, value) for key, value in model.state_dict().items()})
    return model


def run(config: TrainConfig, source: nn.Module, data: Images | Text) -> Row:
    """The row of one run, with the directions of a trained network."""
    model = with_directions_of(source, config, data)
    result = fit(model, data, config.training, seed=config.seed, progress=False)
    return result_row(config, data, ledger(model, batch=config.training.batch_size), result)


def main() -> None:
    """Train what is missing; print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("network", choices=("gpt", "resnet20", "vit"))
    parser.add_argument("--data", required=True, metavar="NAME=PLACE")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.25])
    parser.add_argument("--after", nargs="+", type=float, default=[1.0], help="shares of the data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    name, _, where = options.data.partition("=")
    rows = {_key(row): row for row in read_finished(options.rows)}
    metric = "test_loss" if options.network == "gpt" else "test_error"
    data = None  # the same for all runs
    for after in options.after:
        errors: dict[str, list[float]] = {}
        for seed in options.seeds:
            source = None
            for fraction in options.fractions:
                config = make_run(options.network, name, fraction, after, seed)
                key = config.experiment, config.variant, seed
                if key not in rows:
                    data = data or replace(read_data(config, where), name=name)
                    source = source or trained(config, data, after)
                    rows[key] = run(config, source, data)
                    append_row(options.rows, rows[key])
                    say(f"{config.variant} {seed} {rows[key]['metrics']}")
                errors.setdefault(str(config.variant), []).append(rows[key]["metrics"][metric])
        for variant, values in errors.items():
            print(f"{variant:28} {mean_and_spread(values, digits=3)}", flush=True)


def _key(row: Row) -> tuple[Any, ...]:
    return row["experiment"], row["variant"], row["seed"]


if __name__ == "__main__":
    main()
