"""Keys of a plan: which layers each one matches, and which of several decides on a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from weightcast.serialization import nearest

STAR = "*"
_EXPRESSION = "re:"


def check_key(key: object) -> None:
    """Raise ValueError for what is no text, or an invalid regular expression."""
    if not isinstance(key, str):
        raise ValueError(f"key {key!r} of a plan is no layer's name: write it as a string")
    if key.startswith(_EXPRESSION):
        try:
            re.compile(key.removeprefix(_EXPRESSION))
        except re.error as error:
            raise ValueError(f"rule {key!r}: invalid expression: {error}") from error


def is_name(key: str) -> bool:
    """Whether a key is an exact name."""
    return key != STAR and not key.startswith(_EXPRESSION)


def match(
    keys: Iterable[str], layers: Iterable[str], owners: Mapping[str, str]
) -> dict[str, list[str]]:
    """The layers that each key matches, by their own name or that of their owner, a module."""
    names = {layer: (layer, owners.get(layer, layer)) for layer in layers}
    found = {}
    for key in keys:
        if key == STAR:
            found[key] = list(names)
        elif is_name(key):
            found[key] = [layer for layer, both in names.items() if key in both]
        else:
            fits = re.compile(key.removeprefix(_EXPRESSION)).fullmatch
            found[key] = [layer for layer, both in names.items() if any(map(fits, both))]
    return found


def deciding_keys(matches: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The key that decides on each layer; ``matches`` has the plan's order."""

    def strength(key: str) -> int:
        if not is_name(key):
            return 0 if key == STAR else 1
        return 3 if key in matches[key] else 2  # the layer's own name beats its module's

    decided: dict[str, str] = {}
    for key in sorted(matches, key=strength):
        decided |= dict.fromkeys(matches[key], key)
    return decided


def did_you_mean(key: str, layers: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a name is near that of a layer, else nothing."""
    return nearest(key, layers, list_all=False) if is_name(key) else ""
