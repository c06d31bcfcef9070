"""Modern networks with a learning rate of their own for each curve, chosen on validation data.

    python -m weightcast_lab.studies.modern_rates gpt --data tinyshakespeare=path/to/input.txt \
        --curves dense random narrow --fractions 0.25 --rates 0.002 0.004 0.008 \
        --rows results/modern_rates.jsonl

``weightcast reproduce`` trains all curves of a network at one rate. Here each curve and share first
chooses its own, with seed 0, by the loss on what is set aside for validation; then it is trained
with every seed at that rate, on the network of the preset ``cpu``. Only these runs count the test
data; runs that choose go to a file of their own, ``--choices``, without it. What the files hold
already is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weightcast_lab.bench.scripts import (
    make_parser,
    mean_and_spread,
    read_finished,
    say,
    write_csv,
)
from weightcast_lab.studies.modern import INFORMED, RANDOM, RANDOM_HALF, cpu_setting, make_config
from weightcast_lab.studies.train import run
from weightcast_lab.sweeps.curves import DENSE, NARROW
from weightcast_lab.sweeps.rows import OWN_RATE, Row, append_row
from weightcast_lab.sweeps.trial import Place
from weightcast_lab.training import TrainConfig

CURVES = (DENSE, RANDOM, NARROW, INFORMED, RANDOM_HALF)


class RateStudy:
    """Runs of one network, each carried out once.

    Args:
        network: resnet20, vit or gpt.
        place: where its data lies.
        rows: the file of results.
        choices: the file of runs that choose a rate.
    """

    def __init__(self, network: str, place: Place, rows: Path, choices: Path) -> None:
        assert isinstance(place.data, dict)
        self.setting, self.place = cpu_setting(network), place
        self.files = {False: rows, True: choices}
        self.name, self.data = f"modern-{network}-own-rates", next(iter(place.data))
        self.done = read_finished(*self.files.values())

    def config(self, curve: str, fraction: float, rate: float, seed: int) -> TrainConfig:
        """A run of the network's preset ``cpu`` at a rate of its own."""
        training = replace(self.setting.training, learning_rate=rate)
        setting = replace(self.setting, training=training)
        config = make_config(curve, fraction, setting, seed, self.data)
        return replace(config, experiment=self.name, labels={**config.labels, **OWN_RATE})

    def row(self, config: TrainConfig, *, chooses: bool) -> Row:
        """The row of a run; the one of a choice has nothing of the test split."""
        experiment = self.name + "-validation" * chooses
        for row in self.done:
            same = row["experiment"] == experiment and row["variant"] == config.variant
            rate = row["config"]["training"]["learning_rate"] == config.training.learning_rate
            if same and rate and row["seed"] == config.seed:
                return row
        row: Row = run(config, self.place) | {"experiment": experiment}
        if chooses:
            row["metrics"] = {k: v for k, v in row["metrics"].items() if "test" not in k}
        append_row(self.files[chooses], row)
        self.done.append(row)
        say(f"{experiment} {config.variant} {config.seed} {json.dumps(row['metrics'])}")
        return row

    def choose(self, curve: str, fraction: float, rates: list[float]) -> float:
        """The rate with the smallest validation loss; of one there is nothing to choose."""
        if len(rates) == 1:
            return rates[0]
        losses = {
            rate: self.row(self.config(curve, fraction, rate, 0), chooses=True)["metrics"][
                "validation_loss"
            ]
            for rate in rates
        }
        best = min(losses, key=losses.__getitem__)
        if best in (min(rates), max(rates)):
            print(f"{curve}, {fraction:g}: the best rate is the end of --rates: {best:g}")
        return best

    def choices(self, network: str) -> Iterator[dict[str, Any]]:
        """The runs that chose a rate, as lines of a table."""
        for row in self.done:
            if row["experiment"] == f"{self.name}-validation":
                labels, metrics = row["labels"], row["metrics"]
                yield {
                    "network": network,
                    "curve": labels["curve"],
                    "fraction": f"{labels['fraction']:g}",
                    "learning_rate": row["config"]["training"]["learning_rate"],
                    "seed": row["seed"],
                    "validation_loss": f"{metrics['validation_loss']:.6f}",
                    "validation_error": f"{metrics['validation_error']:.2f}",
                }

    def results(
        self, points: Iterator[tuple[str, float]], rates: list[float], seeds: int
    ) -> Iterator[tuple[str, float, float, list[float]]]:
        """Curve, share, chosen rate and the test losses of all seeds."""
        for curve, fraction in points:
            rate = self.choose(curve, fraction, rates)
            configs = [self.config(curve, fraction, rate, seed) for seed in range(seeds)]
            rows = [self.row(config, chooses=False) for config in configs]
            yield curve, fraction, rate, [row["metrics"]["test_loss"] for row in rows]


def main() -> None:
    """Choose and train what is missing; print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("network", choices=("gpt", "resnet20", "vit"))
    parser.add_argument("--data", required=True, metavar="NAME=PLACE")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=[DENSE, RANDOM, NARROW])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.25])
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3, 4e-3, 8e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--choices", type=Path, default=Path("runs/modern-rates.jsonl"))
    parser.add_argument("--table", type=Path, help="write the runs that chose here, as CSV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name, _, where = options.data.partition("=")
    study = RateStudy(options.network, Place(data={name: where}), options.rows, options.choices)
    points = (
        (curve, fraction)
        for curve in options.curves
        for fraction in ([1.0] if curve == DENSE else options.fractions)
    )
    for curve, fraction, rate, losses in study.results(points, options.rates, options.seeds):
        found = mean_and_spread(losses, digits=3)
        print(f"{curve:12} {100 * fraction:5g} %  rate {rate:g}  {found}")
    if options.table is not None:
        write_csv(options.table, [*study.choices(options.network)])


if __name__ == "__main__":
    main()
