"""Sources: where the data sets of a study lie, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from weightcast_lab.data.natural_patches import PHOTOGRAPHS
from weightcast_lab.data.text import DESCRIPTIONS

PACKAGED = ("digits", PHOTOGRAPHS, DESCRIPTIONS)
"""Data that the dependencies bring along."""


def parse_sources(text: str) -> dict[str, str]:
    """Read ``mnist=PATH,cifar10=PATH``: places of several data sets by name, in order.

    Returns:
        Empty where the text is one place without a name.

    Raises:
        ValueError: a part without a name or a place, or a name twice.
    """
    parts = text.split(",")
    named = [re.fullmatch(r"\s*([^=/\\]*?)\s*=\s*(.*?)\s*", part) for part in parts]
    if not any(named):
        return {}
    sources: dict[str, str] = {}
    for part, match in zip(parts, named, strict=True):
        if match is None or not match[1] or not match[2]:
            raise ValueError(
                f"{part!r} in {text!r} is no NAME=PLACE: write, for example, "
                "mnist=FOLDER,cifar10=FOLDER"
            )
        if match[1] in sources:
            raise ValueError(f"{match[1]!r} is named twice in {text!r}")
        sources[match[1]] = match[2]
    return sources


def find_source(place: Mapping[str, str] | str | None, data: str) -> str:
    """Where a data set lies.

    Args:
        place: ``Place.data``: None, one place for all data that is not packaged, or places by name.
        data: the data's name.

    Returns:
        What :func:`~weightcast_lab.training.load_images` reads, or ``photographs``.

    Raises:
        ValueError: several places, and none of this name.
    """
    if isinstance(place, Mapping) and data in place:
        return place[data]
    if data in PACKAGED or place is None:
        return data
    if isinstance(place, Mapping):
        known = ", ".join(place) or "none"
        raise ValueError(f"there is no place for the data {data!r}, only for {known}: add it")
    return place
