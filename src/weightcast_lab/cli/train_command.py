"""weightcast train: read the config, train the network, print the table."""

from __future__ import annotations

import dataclasses
import re
import shlex
import types
import typing
from argparse import SUPPRESS, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weightcast.cli.parsing import Parser, checked
from weightcast.cli.yaml_files import parse_value, read_yaml
from weightcast.serialization import field_types

if TYPE_CHECKING:
    from weightcast_lab.studies.train import Run
    from weightcast_lab.training import TrainConfig

SUMMARY = "Train one network, dense or with predicted layers."
HELP = """config.yaml holds the fields below; each is overridden by the option of its name,
and the plan's by dotted options such as --plan.rules.hidden1.fraction 0.02. Progress goes to
stderr, the table of learned weights and errors to stdout. Ctrl-C stops with a checkpoint."""


def add_options(parser: Parser) -> None:
    """Add the command's options, one for each field of a TrainConfig."""
    from weightcast_lab.training import TrainConfig

    parser.add_argument("config", metavar="config.yaml", help="the run, as a YAML file")
    parser.add_argument("--rows", help="append the result row to this file (JSON lines)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that put batches together"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that train together")
    parser.dotted = ("--plan",)
    _add_fields(parser, TrainConfig)


def run(options: Namespace) -> None:
    """Train one network from a YAML file and print what it learned and how well.

    Raises:
        ValueError: a config, data or folder that cannot be used; the message says why.
        Interrupted: Ctrl-C, after the checkpoint was written.
    """
    from pytorch_lightning.utilities import rank_zero_only

    from weightcast_lab.studies.train import output_folder, train
    from weightcast_lab.training import Interrupted

    config = _read_config(options)
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
    from weightcast_lab.training import TrainConfig
    from weightcast_lab.training.settings import override

    path = Path(options.config)
    data, hints = read_yaml(path), field_types(TrainConfig)
    for name, value in vars(options).items():
        if name.partition(".")[0] not in hints:
            continue
        if _settings(hints.get(name)) and isinstance(value, dict):
            value = {**(data.get(name) or {}), **value}
        override(data, name, value)
    for name, text in options.paths.items():
        override(data, name, parse_value(text))
    return TrainConfig.from_dict(data, str(path))


def _add_fields(parser: Parser, kind: type, prefix: str = "") -> None:
    """Add an option for each field of a dataclass, and dotted ones for those of its fields."""
    texts = _descriptions(kind)
    for field in dataclasses.fields(kind):
        name, hint = f"{prefix}{field.name}", field_types(kind)[field.name]
        words, nested = _in_words(hint), _settings(hint)
        default = "" if nested else f", default: {_default(field)}"
        parser.add_argument(
            f"--{name}",
            type=checked(_reader(hint), words),
            default=SUPPRESS,
            metavar=field.name.upper(),
            help=f"{texts[field.name]} (type: {words}{default})".replace("%", "%%"),
        )
        if nested is not None:
            _add_fields(parser, nested, f"{name}.")


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    return "null" if value is None else value


def _descriptions(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field."""
    _, _, entries = (kind.__doc__ or "").partition("Args:\n")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", entries, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in found}


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a union is made of; any other alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _settings(hint: Any) -> type | None:
    """The dataclass that a field holds, if it is one."""
    return next(filter(dataclasses.is_dataclass, _options(hint)), None)


def _reader(hint: Any) -> Callable[[str], Any]:
    """How an option of this type is read: as YAML, or as it is; settings from a file, too."""

    def read(text: str) -> Any:
        value = text if str in _options(hint) and text != "null" else parse_value(text)
        if _settings(hint) and isinstance(value, str) and Path(value).is_file():
            value = read_yaml(Path(value))
        if not any(_fits(value, option) for option in _options(hint)):
            raise ValueError(f"{value!r} is no {hint}")
        return value

    return read


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from YAML is one of this type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict or dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    if kind is float and type(value) is int:
        return True
    return type(value) is kind


def _in_words(hint: Any) -> str:
    """A type as help and errors name it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if len(_options(hint)) > 1:
        return " or ".join(map(_in_words, _options(hint)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return f"list of {_in_words(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "mapping"
    return "null" if hint is type(None) else hint.__name__


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
