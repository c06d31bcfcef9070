"""weightcast train: read the config, train the network, print the table."""

from __future__ import annotations

import shlex
from argparse import Namespace
from typing import TYPE_CHECKING

from weightcast.cli.yaml_files import read_yaml
from weightcast.files import user_path
from weightcast.serialization import field_types
from weightcast_lab.cli.config_options import ConfigParser, parse_value, settings_of
from weightcast_lab.settings import TrainConfig, override

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
    config = _read_config(options)  # its mistakes are told before Lightning is imported
    from pytorch_lightning.utilities import rank_zero_only

    from weightcast_lab.studies.train import output_folder, train
    from weightcast_lab.training import Interrupted

    how = {name: getattr(options, name) for name in ("resume", "rows", "workers", "processes")}
    try:
        run = train(config, **how)
    except Interrupted as interrupt:
        if rank_zero_only.rank:  # the process that leads has saved the state, and says so
            return
        words = [word for word in options.words if word != "--resume"]
        again = shlex.join(["weightcast", *words, "--resume"])
        raise Interrupted(
            f"{interrupt}; its state is in {output_folder(config)}. Go on with\n  {again}"
        ) from None
    if run is not None:  # or this process only helped
        print(_table(run))


def _read_config(options: Namespace) -> TrainConfig:
    """The config file, with the fields and the entries of its plan that options replace.

    Raises:
        ValueError: no such file, or fields it does not know (with the nearest one it does).
    """
    path = user_path(options.config)
    data, hints = read_yaml(path), field_types(TrainConfig)
    for name, value in vars(options).items():
        if name.partition(".")[0] not in hints:
            continue
        if settings_of(hints.get(name)) and isinstance(value, dict):
            value = {**(data.get(name) or {}), **value}
        override(data, name, value)
    for name, text in options.paths.items():
        override(data, name, parse_value(text))
    return TrainConfig.from_dict(data, str(path))


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
