"""Runs of deep networks that learn few of their weights, each in one of the ways of :mod:`ways`.

    python -m weightcast_lab.studies.evidence --cells deep --data "tinyshakespeare=PLAYS"
    python -m weightcast_lab.studies.deep.deep_trials --ideas resnet20

prints the ideas' table, of rows that the queue has made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weightcast.layers.counts import ledger
from weightcast_lab.bench.scripts import make_parser, markdown
from weightcast_lab.studies.choice import on_validation
from weightcast_lab.studies.deep.ways import IDEAS, OURS, find_way
from weightcast_lab.studies.train import freeze, read_place, result_row
from weightcast_lab.sweeps.rows import Row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials
from weightcast_lab.training import Images, Text, TrainConfig, fit, measure
from weightcast_lab.training.build import dense_model
from weightcast_lab.training.callbacks import LAST

IDEAS_EXPERIMENT = "evidence-deep-ideas-{}-validation"
"""Of the rows that the ideas for a network have."""


@dataclass(frozen=True)
class DeepConfig(TrainConfig):
    """One run.

    Args:
        way: of :mod:`ways`; None is the dense network.
        fraction: of the large layers' weights that are learned.
    """

    way: str | None = None
    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan is not None:
            raise ValueError("a plan is given: the way makes its own")
        if self.way is not None:
            find_way(self.way)


@runs_trials("deep", DeepConfig, freeze=freeze)
def run(config: DeepConfig, place: Place) -> Row:
    """Train one network, and measure it on the test split once.

    Args:
        config: the run.
        place: where the data lies, what to compute on, and whether to keep checkpoints.

    Raises:
        ValueError: bad data, a way that does not fit, or a loss that is no number.
    """
    return train_on(read_place(config, place), config, place)


@runs_trials("deep-choice", DeepConfig, freeze=freeze)
def choose(config: DeepConfig, place: Place) -> Row:
    """Train one network; its row has nothing of the test split.

    Raises:
        ValueError: as for :func:`run`, or nothing set aside.
    """
    return on_validation(read_place(config, place), lambda data: train_on(data, config, place))


def train_on(data: Images | Text, config: DeepConfig, place: Place) -> Row:
    """Train a trial's network on these data, from its checkpoint if there is one."""
    model, training, finish = dense_model(config, data.shape, data.n_classes), config.training, None
    if config.way is not None:
        way = find_way(config.way)
        model, finish = way.build(model, config, data, config.fraction), way.finish
        training = replace(training, **way.training)
    folder = None if place.checkpoints is None else Path(place.checkpoints)
    result = fit(
        model, data, training, seed=config.seed, progress=False, folder=folder,
        resume=folder is not None and (folder / LAST).is_file(), accelerator=place.accelerator,
    )  # fmt: skip
    counts = ledger(model, batch=training.batch_size)
    if finish is not None:
        finish(model, config, data)
        aside = None if data.validation is None else measure(model, data.validation)
        result = replace(result, test=measure(model, data.test), validation=aside)
    return result_row(replace(config, training=training), data, counts, result)


def ideas_table(rows: Sequence[Row], network: str) -> str:
    """What every idea expected and what came: its least loss over the rates that were tried."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["experiment"] == IDEAS_EXPERIMENT.format(network):
            found.setdefault(row["config"]["way"], []).append(row)

    def least(way: str) -> Row:
        return min(found[way], key=lambda row: row["metrics"]["validation_loss"])

    lines = [["idea", "expected", "rate", "learned", "validation loss", "error, %"]]
    for way in sorted(
        found, key=lambda way: (way != OURS, least(way)["metrics"]["validation_loss"])
    ):
        row = least(way)
        metrics, rate = row["metrics"], row["config"]["training"]["learning_rate"]
        loss = f"{metrics['validation_loss']:.3f}"
        cells = [f"{rate:g}", f"{row['counts']['learned']:,}", loss]
        lines.append([way, IDEAS[way].expected, *cells, f"{metrics['validation_error']:.1f}"])
    return markdown(lines)


def main() -> None:
    """Print the table of a network's ideas."""
    parser = make_parser(__doc__)
    parser.add_argument("--ideas", choices=("resnet20", "gpt"), default="resnet20")
    parser.add_argument("--rows", type=Path, default=Path("results/evidence_choices.ndjson"))
    options = parser.parse_args()
    print(ideas_table(read_rows(options.rows), options.ideas))


if __name__ == "__main__":
    main()
