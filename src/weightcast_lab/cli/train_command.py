"""weightcast train: read the config, train the network, print the table."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from weightcast_lab.cli.config_options import ConfigParser, read_config
from weightcast_lab.settings import TrainConfig

if TYPE_CHECKING:
    from weightcast_lab.studies.train import Run

SUMMARY = "Train one network, dense or with predicted layers."
HELP = """config.yaml holds the fields below; each is overridden by the option of its name,
and the plan's by dotted options such as --plan.rules.hidden1.fraction 0.02. Progress goes to
stderr, the table of learned weights and errors to stdout. Ctrl-C stops with a checkpoint."""
PARSER = ConfigParser


def add_options(parser: ConfigParser) -> None:
    """Add the command's options, one for each field of a TrainConfig."""
    parser.add_argument("config", metavar="config.yaml", help="the run, as a YAML file")
    parser.add_argument("--rows", help="append the result row to this file (JSON lines)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that put batches together"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that train together")
    parser.dotted = ("--plan",)
    parser.add_fields(TrainConfig)


def run(options: Namespace) -> None:
    """Train one network from a YAML file and print what it learned and how well.

    Raises:
        ValueError: a config, data or folder that cannot be used; the message says why.
        Interrupted: Ctrl-C, after the checkpoint was written.
    """
    config = read_config(options, TrainConfig)  # its mistakes are told before Lightning is imported
    from pytorch_lightning.utilities import rank_zero_only

    from weightcast_lab.studies.train import output_folder, train

    how = {name: getattr(options, name) for name in ("resume", "rows", "workers", "processes")}
    with resumable(options.words, output_folder(config), leads=not rank_zero_only.rank):
        run = train(config, **how)
        if run is not None:  # or this process only helped
            print(_table(run))


@contextmanager
def resumable(words: Sequence[str], folder: Path, *, leads: bool = True) -> Iterator[None]:
    """Tell at Ctrl-C how a run goes on, in the process that ``leads`` and has saved its state."""
    from weightcast_lab.training import Interrupted

    try:
        yield
    except Interrupted as interrupt:
        if not leads:
            return
        again = shlex.join(
            ["weightcast", *(word for word in words if word != "--resume"), "--resume"]
        )
        raise Interrupted(f"{interrupt}; its state is in {folder}. Go on with\n  {again}") from None


def _table(run: Run) -> str:
    """The ledger and what was measured, as text."""
    result, row = run.result, run.row
    measured = {"test error": f"{result.test.error:.2f} %"}
    measured["test loss"] = f"{result.test.loss:.4f} nats"
    if result.validation is not None:
        measured["validation error"] = f"{result.validation.error:.2f} %"
        measured["validation loss"] = f"{result.validation.loss:.4f} nats"
    measured["training loss"] = f"{result.train_loss:.4f}"
    measured["training time"] = f"{result.train_seconds:.1f} s, {result.epochs} epochs"
    measured["saved network"] = f"{row['metrics']['checkpoint_bytes']:,} bytes, {run.folder}/model"
    title = f"{row['variant']}, {row['dataset']}, seed {row['seed']}"
    lines = [f"{name:<17} {text}" for name, text in measured.items()]
    return "\n".join([title, "", str(run.ledger), "", *lines])
