"""weightcast compress: a trained model with predicted layers that come nearest to it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from weightcast.cli.job import SOURCE, add_plan, add_source, finish, prepare
from weightcast.measure import compression_report
from weightcast.transform.compress import compress

SUMMARY = "Replace a trained model's layers by predicted ones that come nearest to them."
HELP = SOURCE


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_source(parser)
    add_plan(parser)
    parser.add_argument(
        "--selection",
        default="fitted",
        help="fitted (each column takes the atoms that suit its units) or plan",
    )
    parser.add_argument("--ridge", type=float, default=1e-3, help="of the least squares on inputs")


def run(options: Namespace) -> None:
    """Compress a model, print what each layer lost, save it."""
    model, plan, batches = prepare(options, count="stored")
    how = {"selection": options.selection, "ridge": options.ridge, "seed": options.seed}
    small = compress(model, plan, batches, **how)
    report = compression_report(model, small, batches)
    print(report)
    *layers, whole = report.rows
    errors = [row.weight_error for row in report.rows if row.weight_error is not None]
    metrics = {
        "output_error": whole.output_error,
        "mean_weight_error": sum(errors) / len(errors),
        **{f"weight_error of {row.layer}": row.weight_error for row in layers},
        **{f"output_error of {row.layer}": row.output_error for row in layers},
    }
    print(f"\n{finish(options, small, plan, metrics)}")
