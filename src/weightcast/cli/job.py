"""What the commands that work on a model share: options, model, inputs, plan, folder and row."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from weightcast.cli.parsing import number
from weightcast.cli.result_rows import Row, append_row, check_rows, make_row, row_counts
from weightcast.cli.sources import load_inputs, load_source
from weightcast.cli.stand_in import GUESSED, StandIn
from weightcast.cli.yaml_files import read_yaml
from weightcast.files import check_place, user_path
from weightcast.layers.counts import ledger
from weightcast.plan.budget import Count, TooMuchDenseError
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest
from weightcast.storage import JSON_NAME, save

SOURCE = """SOURCE is a saved state dict (.safetensors, .pt, .pth), a folder from the Hub with
config.json and safetensors, or package.module:function with --allow-import, which makes the model
without arguments; a model may be named itself. Nothing is downloaded, and no file's code is run."""


def add_source(parser: ArgumentParser) -> None:
    """Add the options that say what a command works on."""
    parser.add_argument("source", metavar="SOURCE", help="the model, see above")
    parser.add_argument(
        "--factory", metavar="MODULE:FUNCTION", help="makes the model of a state dict"
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        help="example inputs: .safetensors or .pt with one tensor, or one per argument of the "
        "model, an example a row; or MODULE:FUNCTION, which returns batches",
    )
    parser.add_argument("--batch", type=int, default=100, help="examples per batch of a file")
    parser.add_argument(
        "--allow-import", action="store_true", help="import functions, which runs their code"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--rows", metavar="FILE", help="append a result row (JSON lines)")


def add_output(parser: ArgumentParser) -> None:
    """Add the options that say where and how the model is saved."""
    parser.add_argument("--output", required=True, help="folder for the saved model")
    parser.add_argument("--bits", type=int, help="8 or 4 for each number of V and kept bases")


def add_plan(parser: ArgumentParser) -> None:
    """Add the options that say what is learned and where the model is saved."""
    add_output(parser)
    parser.add_argument("--plan", metavar="FILE", help="which layer from which dictionary: YAML")
    parser.add_argument(
        "--fraction", type=float, help="suggest a plan in which layers learn this share; 0.05"
    )
    parser.add_argument(
        "--budget",
        type=number,  # as in Python, 1 is a number, and 1.0 would be a share
        metavar="NUMBER",
        help="suggest a plan in which the whole network learns this share (below 1), or this whole "
        "number",
    )
    parser.add_argument(
        "--count", help="what --budget counts: learned or stored (compress: stored)"
    )
    parser.add_argument("--columns", type=int, help="groups of units, if suggested; 10")


def prepare(options: Namespace, count: Count) -> tuple[nn.Module, Plan, list[Any] | None]:
    """The model, the plan and the batches; ``count`` is what a budget counts by default."""
    _check(options)
    check_places(options)
    model = load_model(options) if options.inputs is not None else _load_weights(options)
    batches = load_inputs(options.inputs, options.allow_import, options.batch)
    try:
        return model, _find_plan(options, model, batches, count), batches
    except TooMuchDenseError as error:  # which the guess explains, and no other mistake
        if isinstance(model, StandIn) and model.is_partial:
            raise ValueError(f"{error}. {GUESSED}") from error
        raise


def load_model(options: Namespace) -> nn.Module:
    """The source, where it has to run; a state dict is a ValueError."""
    model = load_source(options.source, options.allow_import, options.factory)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{options.source} is a state dict, which has weights only, and inputs need a model to "
            "run: name the function that makes it, --factory package.module:function"
        )
    return model


def _load_weights(options: Namespace) -> nn.Module:
    """The source, where its weights suffice."""
    model = load_source(options.source, options.allow_import, options.factory)
    return model if isinstance(model, nn.Module) else StandIn(model)


def check_places(options: Namespace) -> None:
    """Refuse, before the work, a place for the model or the row that could not be written."""
    folder = user_path(options.output)
    if folder.exists() and not (folder / JSON_NAME).is_file():
        raise ValueError(f"{folder} exists and holds no saved model: name a new folder")
    check_place(folder, folder=True)
    check_rows(options.rows)


def finish(
    options: Namespace,
    model: nn.Module,
    plan: Plan,
    metrics: Mapping[str, float | None],
    **more: Any,
) -> tuple[Row, str]:
    """Save the model and its row, with more in it; the row, and where the model is."""
    folder = user_path(options.output)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save(model, folder, bits=options.bits)
    config = {"plan": plan.to_dict(), "source": _own_name(options.source)}
    row = record(options, config, row_counts(ledger(model)), metrics, **more)
    caveat = f" {GUESSED}" if isinstance(model, StandIn) else ""
    where = f"The model is in {folder}: weightcast.load({str(folder)!r}, model) reads it.{caveat}"
    return row, where


def record(
    options: Namespace,
    config: dict[str, Any],
    counts: dict[str, int],
    metrics: Mapping[str, float | None],
    **more: Any,
) -> Row:
    """The row of a command's work on a source; it is appended to the file of ``--rows``."""
    row = make_row(
        experiment=options.words[0],
        variant=_own_name(options.source),
        dataset="none" if options.inputs is None else _own_name(options.inputs),
        seed=options.seed,
        config=config,
        counts=counts,
        metrics=dict(metrics),
    )
    row |= more
    if options.rows is not None:
        append_row(user_path(options.rows), row)
    return row


def _check(options: Namespace) -> None:
    """Refuse options that would be ignored."""
    suggested = ("fraction", "budget", "count", "columns")
    given = [f"--{name}" for name in suggested if getattr(options, name) is not None]
    if options.plan is not None and given:
        raise ValueError(f"--plan says what is learned: leave out {' and '.join(given)}")
    if options.fraction is not None and options.budget is not None:
        raise ValueError(
            f"--fraction is {options.fraction} and --budget {options.budget}: give one of the two"
        )
    if options.count is not None and options.budget is None:
        raise ValueError("--count says what a budget counts: give --budget, or leave it out")


def _find_plan(
    options: Namespace, model: nn.Module, batches: list[Any] | None, count: Count
) -> Plan:
    if options.plan is not None:
        data = read_yaml(user_path(options.plan))
        plan = Plan.from_dict(data if "rules" in data else {"rules": data})
        if not any(plan.rules.values()):
            raise ValueError(f"{options.plan} has no rule, so nothing would be predicted: add one")
        return plan
    return suggest(
        model,
        options.fraction,
        batches,
        10 if options.columns is None else options.columns,
        budget=options.budget,
        count=options.count or count,
        seed=options.seed,
    )


def _own_name(source: str) -> str:
    """A file or folder by its own name: rows should not tell where on a machine it lay."""
    return Path(source).name or source
