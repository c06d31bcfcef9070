"""Error on MNIST at equal learned weights: predicted layers beside all peers, trained alike.

    python -m weightcast_lab.studies.peers_mnist --data path/to/mnist \
        --rows results/peers_mnist.jsonl

The network is 784-500-500-10, with a share of its two hidden layers' weights learned. Every network
chooses its learning rate first, with one seed, on 10,000 of the training images that are set aside;
then it is trained on all of them with every seed, and the test images are read once per run.
Finished runs are in --rows, those that chose in --choices, and a second call does only what is
missing. Where more rates change a choice, delete that network's older rows: a report refuses both.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from weightcast_lab.bench.cases import find_case
from weightcast_lab.bench.peers import build_peer, find_peer, learned_weights
from weightcast_lab.bench.scripts import make_parser, mean_and_spread, read_finished, say
from weightcast_lab.sweeps.rows import Row, append_row, make_row
from weightcast_lab.sweeps.variants import make_config, make_variants
from weightcast_lab.training import Images, TrainingSettings, fit, load_images
from weightcast_lab.training.build import build_model

DENSE, OURS = "dense", "predicted"
NETWORKS = (DENSE, OURS, "narrow", "low-rank", "cp", "tucker", "tt", "lora", "fourierft", "vera")
CHOICE, RESULT = "peers-mnist-validation", "peers-mnist"


@dataclass(frozen=True)
class PeerRun:
    """One training run.

    Args:
        network: ``dense``, ``predicted``, or a peer's name.
        fraction: share of the hidden layers' weights that is learned; 1 for the dense network.
        rate: the largest learning rate of the schedule.
        seed: of weights, atoms and the order of the images.
        chooses: whether it is judged on validation images.
    """

    network: str
    fraction: float
    rate: float
    seed: int
    chooses: bool

    @property
    def experiment(self) -> str:
        """Choices are rows of an experiment of their own."""
        return CHOICE if self.chooses else RESULT

    @property
    def variant(self) -> str:
        """What its row is called."""
        if self.network == DENSE:
            return DENSE
        return f"{self.network}, {100 * self.fraction:g} %"

    def key(self, config: dict[str, object]) -> str:
        """What tells it from all others in a file of rows."""
        return json.dumps([self.experiment, self.variant, self.seed, config], sort_keys=True)


class PeerStudy:
    """All runs on one data set.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.done = {
            json.dumps(
                [row["experiment"], row["variant"], row["seed"], row["config"]], sort_keys=True
            ): row
            for row in read_finished(options.choices, options.rows)
        }
        self.images: dict[bool, Images] = {}

    def row(self, run: PeerRun) -> Row:
        """The row of a run, which is carried out if its file does not hold it."""
        settings = TrainingSettings(
            self.options.epochs, learning_rate=run.rate, label_smoothing=0.1
        )
        config = {
            "network": run.network,
            "fraction": run.fraction,
            "epochs": settings.epochs,
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "label_smoothing": settings.label_smoothing,
            "n_train": self.options.n_train,
            "n_validation": self.options.validation if run.chooses else 0,
        }
        key = run.key(config)
        if key not in self.done:
            row = self._carry_out(run, settings, config)
            append_row(self.options.choices if run.chooses else self.options.rows, row)
            self.done[key] = row
            what = f"{run.experiment}: {run.variant}, rate {run.rate:g}, seed {run.seed}"
            say(f"{what}: {row['metrics']}")
        return self.done[key]

    def _carry_out(self, run: PeerRun, settings: TrainingSettings, config: dict) -> Row:
        images = self._images(run.chooses)
        model = build(run, images, settings)
        metrics: dict[str, float | None] = {}
        try:
            result = fit(model, images, settings, seed=run.seed, progress=False)
        except ValueError as error:  # a loss that is no number: no rate to choose
            say(f"{run.variant}, rate {run.rate:g}: {error}")
        else:
            metrics = {"train_loss": result.train_loss, "train_seconds": result.train_seconds}
            if run.chooses:  # nothing is chosen by the test images, so the row does not have them
                metrics["validation_error"] = result.validation_error
            else:
                metrics["test_error"] = result.test_error
        total = learned_weights(find_case("mlp").make())
        return make_row(
            experiment=run.experiment,
            variant=run.variant,
            dataset=images.name,
            seed=run.seed,
            config=config,
            counts={"learned": learned_weights(model), "dense": total},
            metrics=metrics,
        )

    def _images(self, chooses: bool) -> Images:
        if chooses not in self.images:
            kept = self.options.validation if chooses else 0
            images = load_images(self.options.data, n_validation=kept)
            if self.options.n_train is not None:
                images = images.fewer(self.options.n_train)
            self.images[chooses] = images.standardised()
        return self.images[chooses]

    def choose_rate(self, network: str, fraction: float) -> float:
        """The rate with the fewest validation errors.

        Raises:
            ValueError: none of them trains the network at all.
        """
        errors = {}
        for rate in self.options.rates:
            row = self.row(PeerRun(network, fraction, rate, 0, chooses=True))
            error = row["metrics"].get("validation_error")
            if error is not None:
                errors[rate] = error
        if not errors:
            raise ValueError(f"{network} diverges at all rates: add smaller ones to --rates")
        best = min(errors, key=lambda rate: errors[rate])
        if len(errors) > 1 and best in (min(self.options.rates), max(self.options.rates)):
            say(f"{network}, {fraction:g}: the best rate is {best:g}, the end of --rates: add more")
        return best


def build(run: PeerRun, images: Images, settings: TrainingSettings) -> nn.Module:
    """The network of a run; frozen factors are the dense network's weights as they are drawn."""
    if run.network == DENSE:
        return find_case("mlp").make(run.seed)
    if run.network == OURS:
        name = f"{100 * run.fraction:g} % learned"
        variants = {variant.name: variant for variant in make_variants(images)}
        if name not in variants:
            raise ValueError(f"there is no predicted network {name!r}: take 0.05 or 0.02")
        return build_model(make_config(variants[name], "", settings, run.seed), images)
    return build_peer(find_case("mlp"), find_peer(run.network), run.fraction, run.seed)


def networks(options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Names and fractions of all that is compared; what cannot be built is said and left out."""
    for name in options.networks:
        if name == DENSE:
            yield name, 1.0
            continue
        if name != OURS:
            obstacle = find_peer(name).obstacle(find_case("mlp"))
            if obstacle is not None:
                say(f"left out: {obstacle}")
                continue
        yield from ((name, fraction) for fraction in options.fractions)


def line(rows: Sequence[Row], rate: float) -> str:
    """One network in the table."""
    done = [row["metrics"] for row in rows if "test_error" in row["metrics"]]
    if len(done) < len(rows):
        # The mean of the others would flatter it.
        return f"{rows[0]['variant']:20} {len(rows) - len(done)} of {len(rows)} runs diverged"
    errors = [metrics["test_error"] for metrics in done]
    seconds = statistics.median(metrics["train_seconds"] for metrics in done)
    mean = mean_and_spread(errors)
    n, learned = len(errors), rows[0]["counts"]["learned"]
    return f"{rows[0]['variant']:20} {learned:>9,} {rate:>8g} {mean:>14} {n:>3} {seconds:>9.1f}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Args:
        arguments: None takes the program's own.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="digits, a folder, or a Hub name")
    parser.add_argument("--rows", type=Path, required=True, help="read and append rows here")
    # Apart: these have no test error, which a report of the others shows.
    parser.add_argument("--choices", type=Path, default=Path("runs/peers_mnist_choices.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2]
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help=", ".join(NETWORKS))
    parser.add_argument("--validation", type=int, default=10_000, help="images to choose by")
    parser.add_argument("--n-train", type=int, help="fewer training images, to try it out")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print a table."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    study = PeerStudy(options)
    head = f"{'network':20} {'learned':>9} {'rate':>8} {'test error %':>14} {'n':>3} {'train s':>9}"
    lines = []
    for network, fraction in networks(options):
        rate = study.choose_rate(network, fraction)
        runs = [PeerRun(network, fraction, rate, seed, False) for seed in range(options.seeds)]
        lines.append(line([study.row(run) for run in runs], rate))
        say(lines[-1])
    print("\n".join([head, *lines]))


if __name__ == "__main__":
    main()
