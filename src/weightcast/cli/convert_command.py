"""weightcast convert: a model with predicted layers, V drawn anew, saved to a folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from weightcast.cli.job import SOURCE, add_plan, add_source, finish, prepare
from weightcast.layers.counts import ledger
from weightcast.transform.convert import convert

SUMMARY = "Replace a model's layers by predicted ones, V drawn anew; save it to a folder."
HELP = SOURCE


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_source(parser)
    add_plan(parser)


def run(options: Namespace) -> None:
    """Convert a model, print its ledger, save it."""
    model, plan, batches = prepare(options, count="learned")
    converted = convert(model, plan, inputs=batches, seed=options.seed)
    print(ledger(converted))
    print(f"\n{finish(options, converted, plan, {})[1]}")
