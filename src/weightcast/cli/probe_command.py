"""weightcast probe: how well each layer's weights are predicted from a few of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from torch import nn

from weightcast.cli.installed import extension
from weightcast.cli.job import SOURCE, add_source, record
from weightcast.cli.result_rows import check_rows
from weightcast.cli.sources import load_inputs, load_source
from weightcast.files import check_place
from weightcast.measure import probe

SUMMARY = "Hide most of each layer's weights, predict them, and say how well that goes."
HELP = SOURCE


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_source(parser)
    parser.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        metavar="NUMBER",
        default=[0.05, 0.25],
        help="shares of weights that are known",
    )
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="all by default")
    parser.add_argument("--columns", type=int, default=1, help="groups of units")
    parser.add_argument("--output", help="folder for a page and a picture; none by default")


def run(options: Namespace) -> None:
    """Probe a model or a state dict, print the table, draw the picture."""
    # Before the work: a page that cannot be drawn should not cost it.
    write_report = extension("write_report", "--output") if options.output is not None else None
    check_place(options.output, folder=True)
    check_rows(options.rows)
    model = load_source(options.source, options.allow_import, options.factory)
    found = probe(
        model,
        tuple(options.fractions),
        inputs=load_inputs(options.inputs, options.allow_import, options.batch),
        layers=options.layers,
        columns=options.columns,
        seed=options.seed,
    )
    print(found)
    tensors = model.parameters() if isinstance(model, nn.Module) else model.values()
    config = {"fractions": options.fractions, "columns": options.columns}
    counts = {"dense": sum(tensor.numel() for tensor in tensors)}
    row = record(options, config, counts, {}, probe=found.to_dict())
    if write_report is not None:
        print(f"\nOpen {write_report([row], options.output)} in a browser.")
