"""Which learning rate V wants under AdamW, SGD and Muon, and what to decay: small, on digits.

    python -m weightcast_lab.studies.optimisers --table results/optimisers_validation.csv

The network is 784-500-500-10 with a LayerNorm behind each hidden layer: dense, or with 5 % of the
hidden layers' weights learned, with windows or from the paper's kernel. Each optimiser trains
each network at several rates, under each rule for the rate of V; then AdamW trains with a strong
weight decay, of all parameters or of matrices only. Errors are those on 800 of the training
images that are set aside: the test images are not read. Runs that the file holds already are not
computed again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import weightcast as wc
from weightcast.layers import predicted_layers
from weightcast.optim import row_norm
from weightcast_lab.bench.scripts import make_parser, read_finished, say, write_csv
from weightcast_lab.sweeps.rows import Row, append_row, make_row
from weightcast_lab.sweeps.variants import make_variants
from weightcast_lab.training import Images, load_images
from weightcast_lab.training.module import measure_error

EXPERIMENT = "optimisers"
BATCH, EPOCHS = 100, 15
RATES = {
    "adamw": (0.0025, 0.005, 0.01, 0.02),
    "muon": (0.0025, 0.005, 0.01, 0.02),
    "sgd": (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
}
NETWORKS = {
    "dense": "dense",
    "windows": "5 % learned",
    "kernel": "5 % learned, no windows",
}
DENSE_RATE, SCALED = "dense rate", "scaled"


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        network: dense, windows or kernel.
        optimiser: adamw, sgd (momentum 0.9) or muon (hidden layers; AdamW for all else).
        rule: V's rate is the dense rate, or scaled as ``wc.parameter_groups`` does.
        learning_rate: the largest of the schedule: up for 30 % of the steps, then down to nought.
        weight_decay: W's rate of decay per step over its learning rate.
        decayed: all parameters, or matrices: no biases and norms.
        seed: of weights, atoms and the order of the images.
    """

    network: str
    optimiser: str
    rule: str
    learning_rate: float
    weight_decay: float = 0.01
    decayed: str = "all"
    seed: int = 0

    @property
    def variant(self) -> str:
        """What tells it from others but for the seed."""
        rate, decay = f"{self.learning_rate:g}", f"decay {self.weight_decay:g} of {self.decayed}"
        return ", ".join((self.network, self.optimiser, self.rule, rate, decay))


def runs(seeds: int) -> Iterator[Run]:
    """All that are compared."""
    for seed in range(seeds):
        for network in NETWORKS:
            for optimiser, rates in RATES.items():
                for rule in (DENSE_RATE,) if network == "dense" else (DENSE_RATE, SCALED):
                    for rate in rates:
                        yield Run(network, optimiser, rule, rate, seed=seed)
        for network in ("dense", "windows"):
            rule = DENSE_RATE if network == "dense" else SCALED
            for decay in (0.1, 1.0):
                for decayed in ("all", "matrices"):
                    yield Run(network, "adamw", rule, 0.005, decay, decayed, seed)


def make_network(run: Run, images: Images) -> nn.Module:
    """The network of a run, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        width = images.train[0][0].numel()
        for i in (1, 2):
            layers += [(f"hidden{i}", nn.Linear(width, 500)), (f"norm{i}", nn.LayerNorm(500))]
            layers += [(f"relu{i}", nn.ReLU())]
            width = 500
        model = nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(500, images.n_classes))]))
    plans = {variant.name: variant.plan for variant in make_variants(images)}
    plan = plans[NETWORKS[run.network]]
    return model if plan is None else wc.convert(model, plan, seed=run.seed)


def rate_of_V(layer: wc.PredictedLayer, rule: str) -> float:
    """V's learning rate over the dense one."""
    return 1 / float(row_norm(layer)) if rule == SCALED else 1.0


def make_optimisers(model: nn.Module, run: Run) -> list[Optimizer]:
    """One optimiser, or Muon for the hidden layers and AdamW for all else."""
    rates = {id(v.V): rate_of_V(v, run.rule) for v in predicted_layers(model).values()}
    hidden, others = [], []
    for name, parameter in model.named_parameters():
        rate = rates.get(id(parameter), 1.0)
        decays = parameter.ndim > 1 or run.decayed == "all"
        group = {
            "params": [parameter],
            "lr": run.learning_rate * rate,
            "weight_decay": run.weight_decay / rate if decays else 0.0,
        }
        (hidden if parameter.ndim > 1 and "hidden" in name else others).append(group)
    match run.optimiser:
        case "muon":
            return [Muon(hidden, adjust_lr_fn="match_rms_adamw"), AdamW(others)]
        case "sgd":
            return [SGD(hidden + others, momentum=0.9)]
    return [AdamW(hidden + others)]


def train(model: nn.Module, run: Run, images: Images) -> None:
    """Train in place; a loss that is no number ends it."""
    x, y = images.train
    steps = EPOCHS * (len(y) // BATCH)
    optimisers = make_optimisers(model, run)
    up = 0.3 * steps
    schedules = [
        LambdaLR(o, lambda i: min((i + 1) / up, (steps - i) / (steps - up))) for o in optimisers
    ]
    generator = torch.Generator().manual_seed(run.seed)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(y), generator=generator).split(BATCH):
            for optimiser in optimisers:
                optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=0.1)
            if not loss.isfinite():
                return
            loss.backward()
            for stepped in (*optimisers, *schedules):
                stepped.step()


def table(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """All runs, as lines of a table."""
    for row in rows:
        own = {field.name: row["config"][field.name] for field in fields(Run)}
        yield own | {"validation_error": f"{row['metrics']['validation_error']:.3f}"}


def main() -> None:
    """Train what is missing."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, default=Path("runs/optimisers.jsonl"))
    parser.add_argument("--table", type=Path, required=True, help="write all runs here, as CSV")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("digits", n_validation=800).standardised()
    assert images.validation is not None
    done = {(row["variant"], row["seed"]) for row in read_finished(options.rows)}
    for run in runs(options.seeds):
        if (run.variant, run.seed) in done:
            continue
        model = make_network(run, images)
        train(model, run, images)
        counts = wc.ledger(model).total
        row = make_row(
            experiment=EXPERIMENT,
            variant=run.variant,
            dataset=images.name,
            seed=run.seed,
            config={**asdict(run), "batch_size": BATCH, "epochs": EPOCHS},
            counts={"dense": counts.dense, "learned": counts.learned},
            metrics={"validation_error": measure_error(model, images.validation)},
        )
        append_row(options.rows, row)
        say(f"{run.variant}, seed {run.seed}: {json.dumps(row['metrics'])}")
    rows = [row for row in read_finished(options.rows) if row["seed"] < options.seeds]
    write_csv(options.table, [*table(rows)])


if __name__ == "__main__":
    main()
