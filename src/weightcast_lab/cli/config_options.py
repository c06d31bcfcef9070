"""ConfigParser: an option for each field of a dataclass, and dotted ones for those within."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from weightcast.cli.parsing import Parser, checked
from weightcast.cli.yaml_files import parse_yaml, read_yaml
from weightcast.files import user_path
from weightcast.serialization import field_types
from weightcast_lab.settings import override


class ConfigParser(Parser):
    """The options of a command that reads a config."""

    dotted: tuple[str, ...] = ()
    """Options such as ``--plan``, whose ``--plan.PATH VALUE`` may name any path."""

    def read(self, words: Sequence[str]) -> Namespace:
        """The options; ``paths`` holds the values of dotted ones by their paths.

        Raises:
            ValueError: what Parser refuses, or a dotted option without a value.
        """
        rest: list[str] = []
        paths: dict[str, str] = {}
        remaining = iter(words)
        for word in remaining:
            if not word.startswith(tuple(f"{option}." for option in self.dotted)):
                rest.append(word)  # the names of layers are no options of argparse
                continue
            name, equals, value = word.removeprefix("--").partition("=")
            value = value if equals else next(remaining, None)
            if value is None:
                raise ValueError(f"--{name} needs a value")
            paths[name] = value
        options = super().read(rest)
        options.paths = paths
        return options

    def add_fields(self, kind: type, prefix: str = "") -> None:
        """Add an option for each field of a dataclass, and dotted ones for those of its fields."""
        texts = _descriptions(kind)
        for field in dataclasses.fields(kind):
            name, hint = f"{prefix}{field.name}", field_types(kind)[field.name]
            words, nested = _in_words(hint), settings_of(hint)
            default = "" if nested else f", default: {_default(field)}"
            self.add_argument(
                f"--{name}",
                type=checked(_reader(hint), words),
                default=SUPPRESS,
                metavar=field.name.upper(),
                help=f"{texts[field.name]} (type: {words}{default})".replace("%", "%%"),
            )
            if nested is not None:
                self.add_fields(nested, f"{name}.")


def read_config(options: Namespace, kind: type[Any]) -> Any:
    """The config file as a ``kind``, options in place of its fields and its plan's entries.

    Raises:
        ValueError: no such file, or fields it does not know (with the nearest one it does).
    """
    path = user_path(options.config)
    data, hints = read_yaml(path), field_types(kind)
    for name, value in vars(options).items():
        if name.partition(".")[0] not in hints:
            continue
        if settings_of(hints.get(name)) and isinstance(value, dict):
            value = {**(data.get(name) or {}), **value}
        override(data, name, value)
    for name, text in options.paths.items():
        override(data, name, parse_value(text))
    return kind.from_dict(data, str(path))


def parse_value(text: str) -> Any:
    """A value on the command line, read as YAML: 0.05, true, null, [1, 2], words.

    Raises:
        ValueError: no YAML.
    """
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"cannot read the value {text!r}: {error}") from error


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    return "null" if value is None else value


def _descriptions(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field."""
    # Python 3.13 takes the indentation off docstrings itself.
    _, _, entries = (inspect.getdoc(kind) or "").partition("Args:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", entries, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in found}


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a union is made of; any other alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def settings_of(hint: Any) -> type | None:
    """The dataclass that a field holds, if it is one."""
    return next(filter(dataclasses.is_dataclass, _options(hint)), None)


def _reader(hint: Any) -> Callable[[str], Any]:
    """How an option of this type is read: as YAML, or as it is; settings from a file, too."""

    def read(text: str) -> Any:
        value = text if str in _options(hint) and text != "null" else parse_value(text)
        if settings_of(hint) and isinstance(value, str) and Path(value).is_file():
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
