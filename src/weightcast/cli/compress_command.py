"""weightcast compress: a trained model with predicted layers that come nearest to it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from torch import nn

from weightcast.cli.job import SOURCE, add_plan, add_source, finish, prepare
from weightcast.cli.sources import load_function
from weightcast.files import user_path
from weightcast.measure import CompressionReport, compression_report
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
    parser.add_argument(
        "--refresh",
        default="layer",
        help="how often inputs are seen anew: layer (after each), block, or never",
    )
    parser.add_argument("--ridge", type=float, help="of the least squares on inputs")
    add_evaluate(parser)


def add_evaluate(parser: ArgumentParser) -> None:
    """Add the option that names a function which measures a model."""
    parser.add_argument(
        "--evaluate",
        metavar="MODULE:FUNCTION",
        help="a function of the model that returns its error (or another number)",
    )


def run(options: Namespace) -> None:
    """Compress a model, print what each layer lost, save it, and sum up."""
    evaluate = load_function(options.evaluate, options.allow_import)
    model, plan, batches = prepare(options, count="stored")
    before = None if evaluate is None else float(evaluate(model))
    how = {"selection": options.selection, "ridge": options.ridge, "seed": options.seed}
    small = compress(model, plan, batches, refresh=options.refresh, **how)
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
    after = None if evaluate is None else float(evaluate(small))
    if before is not None:
        metrics |= {"metric_before": before, "metric_after": after}
    _, saved = finish(options, small, plan, metrics)
    print(f"\n{verdict(model, options.output, report, before, after)}\n{saved}")


def verdict(
    model: nn.Module,
    folder: str,
    report: CompressionReport,
    before: float | None,
    after: float | None,
) -> str:
    """What a reader wants to know last: bytes, error of the output, and the metric, if any."""
    dense = sum(tensor.nbytes for tensor in unique_tensors(model))
    stored = sum(file.stat().st_size for file in user_path(folder).rglob("*"))
    lines = [f"Verdict: {stored / 2**20:,.2f} MiB in place of {dense / 2**20:,.2f}, "]
    lines[0] += f"{stored / max(1, dense):.1%} of the dense network's bytes."
    if stored >= dense:
        lines.append("The file is no smaller than the dense one: take a smaller --budget.")
    error = report.rows[-1].output_error
    if error is None:
        lines.append("What the output lost is not known: give --inputs, or --evaluate a function.")
    else:
        lines.append(f"The network's output differs by {error:.2%} of its variance.")
    if error is not None and error > MUCH:
        lines.append("That is much: take a larger --budget or more --inputs, or train on (distil).")
    if before is not None and after is not None:
        lines.append(f"The function gives {before:.6g} before and {after:.6g} after.")
    return "\n".join(lines)


MUCH = 0.3
"""Share of its output's variance that a network hardly loses without harm."""


def unique_tensors(model: nn.Module) -> list[Any]:
    """What a file of the model holds: parameters and buffers of its state, each once."""
    state = model.state_dict(keep_vars=True).values()
    return list({id(tensor): tensor for tensor in state if hasattr(tensor, "nbytes")}.values())
