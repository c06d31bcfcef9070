"""YAML: plans, settings and options; PyYAML is imported when one is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one mapping, or nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"there is no config file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the config file {path}: {error}") from error
    try:
        data = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is read by PyYAML: pip install PyYAML, or write it as JSON and name it .json"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}: a config is a mapping of fields")
    return data


def parse_yaml(text: str) -> Any:
    """What a text says in YAML; a ValueError says where it is none."""
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.2's numbers: 2e-3 is one, where PyYAML reads a word."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
