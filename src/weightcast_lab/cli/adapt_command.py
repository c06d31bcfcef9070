"""weightcast adapt: a network from the Hub's folder learns a task with few weights."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from weightcast.files import check_place
from weightcast_lab.cli.config_options import ConfigParser, read_config
from weightcast_lab.cli.train_command import resumable
from weightcast_lab.studies.adapter_config import AdapterConfig

if TYPE_CHECKING:
    from weightcast_lab.studies.adapt_folder import Adapted

SUMMARY = "Adapt a frozen network from the Hub to labels or a text, with few learned weights."
HELP = """config.yaml holds the fields below (model, data and task at least); each is overridden by
the option of its name. Images are held in memory as the network takes them. The adapter is saved in
OUTPUT/model: weightcast.load reads it onto the same network. Ctrl-C stops with a checkpoint, which
--resume goes on from; so it does after a kill, from the last epoch."""
PARSER = ConfigParser


def add_options(parser: ConfigParser) -> None:
    """Add the command's options, one for each field of an AdapterConfig."""
    parser.add_argument("config", metavar="config.yaml", help="the run, as a YAML file")
    parser.add_argument("--rows", help="append the result row to this file (JSON lines)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--report", metavar="FOLDER", help="for a page with the curve; none")
    parser.add_argument("--peft", metavar="FOLDER", help="for the adapter as PEFT loads it; none")
    parser.dotted = ("--plan",)
    parser.add_fields(AdapterConfig)


def run(options: Namespace) -> None:
    """Adapt one network from a YAML file and print what it learned and how well.

    Raises:
        ValueError: a config, network, data or place that cannot be used; the message says why.
        Interrupted: Ctrl-C, after the checkpoint was written.
    """
    config = read_config(options, AdapterConfig)
    check_place(options.report, folder=True)
    if options.report is not None:  # what lacks should not cost the work
        from weightcast_lab.report import write_report
    from weightcast_lab.studies.adapt_folder import adapt_folder, output_folder

    how = {name: getattr(options, name) for name in ("resume", "rows", "peft")}
    with resumable(options.words, output_folder(config)):
        run = adapt_folder(config, **how)
    print(_table(run))
    if options.peft is not None:
        print(f"PEFT loads it from {options.peft}")
    if options.report is not None:
        print(f"\nOpen {write_report([run.row], options.report)} in a browser.")


def _table(run: Adapted) -> str:
    """What was learned and measured, as text."""
    row, metrics = run.row, run.row["metrics"]
    counts = row["counts"]
    measured = {"learned weights": f"{counts['learned']:,} of {counts['dense']:,}, heads included"}
    measured |= {"": "before, after"}
    measured["test error"] = f"{metrics['test_error_before']:.2f}, {metrics['test_error']:.2f} %"
    measured["test loss"] = f"{metrics['test_loss_before']:.4f}, {metrics['test_loss']:.4f} nats"
    if metrics["validation_error"] is not None:
        measured["validation error"] = f"{metrics['validation_error']:.2f} %"
        measured["validation loss"] = f"{metrics['validation_loss']:.4f} nats"
    measured["training time"] = f"{metrics['train_seconds']:.1f} s, {len(row['curve'])} epochs"
    measured["adapter"] = f"{metrics['checkpoint_bytes']:,} bytes, {run.folder}/model"
    title = f"{row['variant']}, {row['dataset']}, seed {row['seed']}"
    lines = [f"{name:<17} {text}" for name, text in measured.items()]
    return "\n".join([title, "", *lines])
