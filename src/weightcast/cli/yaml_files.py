"""YAML: plans, settings and options; PyYAML is imported when one is read."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from weightcast.files import read_text

MOST_LEVELS = 100
"""Of lists and mappings within each other; a plan has about ten."""

_SCALARS = {
    "bool": r"(?i:yes|no|true|false|on|off)$",
    "int": r"([-+]?(0|[1-9][\d_]*)|0x[\da-fA-F_]+)$",
    "float": r"[-+]?((\d[\d_]*\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?i:inf|nan))$",
    "null": r"(~|(?i:null)|)$",
    "merge": r"<<$",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one mapping, or nothing."""
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no config file {path}") from error
    except OSError as error:
        raise ValueError(f"cannot read the config file {path}: {error}") from error
    try:
        if path.suffix == ".json":
            data = json.loads(text, object_pairs_hook=_without_twins)
        else:
            data = parse_yaml(text)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is read by PyYAML: pip install PyYAML, or write it as JSON and name it .json"
        ) from error
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path} is no {kind}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: a config has a few levels") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}: a config is a mapping of fields")
    return data


def parse_yaml(text: str) -> Any:
    """What a text says in YAML; a ValueError says where it is none.

    Keys are text, as they are written: 0.10, 010, 1:30 and no are names of layers. Of what is
    unquoted elsewhere, numbers, true and false, yes and no, on and off, null and ~ are values; all
    else is text: dates, times, and 010, which is eight to some and ten to others.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML whose keys are text, and whose numbers no one reads otherwise."""

        yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way
        levels = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.levels += 1
            if self.levels > MOST_LEVELS:
                raise yaml.YAMLError(f"more than {MOST_LEVELS} levels")
            node = super().compose_node(parent, index)
            self.levels -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            own = [key for key, _ in node.value if not key.tag.endswith(":merge")]
            if odd := [key for key in own if not isinstance(key, yaml.ScalarNode)]:
                raise yaml.YAMLError(f"a key that is a {odd[0].id}, where names are text")
            _without_twins([(key.value, None) for key in own])
            self.flatten_mapping(node)
            return {key.value: self.construct_object(item, deep=True) for key, item in node.value}

    for kind, pattern in _SCALARS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(pattern), None)

    def construct_sequence(loader: Any, node: Any) -> list[Any]:
        return loader.construct_sequence(node, deep=True)

    # At once, and not when all else is there: so nothing can hold itself.
    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    Loader.add_constructor("tag:yaml.org,2002:seq", construct_sequence)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of these pairs; ValueError if a key comes twice."""
    twins = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twins:
        raise ValueError(f"the key {twins[0]!r} comes twice")
    return dict(pairs)
