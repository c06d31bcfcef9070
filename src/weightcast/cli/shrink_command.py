"""weightcast shrink: the smallest compressed network that a function finds good enough."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from weightcast.cli.compress_command import add_evaluate, verdict
from weightcast.cli.installed import extension
from weightcast.cli.job import SOURCE, add_output, add_source, check_places, finish, load_model
from weightcast.cli.sources import load_function, load_inputs
from weightcast.files import check_place
from weightcast.layers.rule import Rule
from weightcast.measure import compression_report
from weightcast.plan.plan import Plan
from weightcast.transform.shrink import ShrinkTrial, shrink, smallest, trials_table

SUMMARY = "Compress a trained model as far as its metric allows; save it to a folder."
HELP = SOURCE


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_source(parser)
    add_evaluate(parser)
    add_output(parser)
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="how much worse the metric may be; 0.01"
    )
    parser.add_argument(
        "--higher-is-better", action="store_true", help="as for accuracy; an error by default"
    )
    parser.add_argument("--evaluations", type=int, default=8, help="of networks, at most; 8")
    parser.add_argument("--report", metavar="FOLDER", help="for a page with the curve; none")


def run(options: Namespace) -> None:
    """Find the smallest model, print the trials, save it, and sum up."""
    # Before the work: what cannot be written or measured should not cost it.
    write_report = extension("write_report", "--report") if options.report is not None else None
    evaluate = load_function(options.evaluate, options.allow_import)
    check_places(options)
    check_place(options.report, folder=True)
    if evaluate is None or options.inputs is None:
        raise ValueError("shrink needs --inputs, and --evaluate package.module:function")
    model = load_model(options)
    batches = load_inputs(options.inputs, options.allow_import, options.batch)
    trials: list[ShrinkTrial] = []
    small: Any = shrink(
        model,
        batches,
        evaluate,
        options.tolerance,
        higher_is_better=options.higher_is_better,
        evaluations=options.evaluations,
        seed=options.seed,
        callback=trials.append,
    )
    print(trials_table(trials))
    report = compression_report(model, small, batches)
    chosen = smallest(trials)
    assert chosen is not None  # or shrink had raised
    metrics = {
        "output_error": report.rows[-1].output_error,
        "metric_before": trials[0].metric,
        "metric_after": chosen.metric,
    }
    rules: dict[str, Rule | None] = {
        row.layer: small.get_submodule(row.layer).rule for row in report.rows[:-1]
    }
    row, saved = finish(options, small, Plan(rules), metrics, shrink=_told(options, trials))
    summed = verdict(model, options.output, report, trials[0].metric, chosen.metric)
    print(f"\n{summed}\n{saved}")
    if write_report is not None:
        print(f"\nOpen {write_report([row], options.report)} in a browser.")


def _told(options: Namespace, trials: list[ShrinkTrial]) -> dict[str, Any]:
    """The search as JSON data; a metric that is no finite number is null."""
    return {
        "tolerance": options.tolerance,
        "higher_is_better": options.higher_is_better,
        "trials": [
            asdict(trial) | {"metric": trial.metric if math.isfinite(trial.metric) else None}
            for trial in trials
        ],
    }
