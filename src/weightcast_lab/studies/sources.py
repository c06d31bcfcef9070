"""Sources: where the data sets of a study lie, by their names."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from weightcast.files import user_path
from weightcast_lab.data.image_sources import load_images
from weightcast_lab.data.natural_patches import PHOTOGRAPHS
from weightcast_lab.data.prepared import SUFFIX, save_images
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


def full_path(source: str) -> str:
    """A source as processes with another working directory find it."""
    path = user_path(source)
    return str(path.resolve()) if path.exists() and source not in PACKAGED else source


def prepare(name: str, source: str, folder: Path) -> str:
    """Decode images once, into a file below ``folder`` that every trial opens.

    Args:
        name: what the data is called.
        source: where it lies.
        folder: of the sweep.

    Returns:
        The file's path, or the source where it needs no preparing.
    """
    if source == "digits" or source.endswith(SUFFIX):
        return source
    # By name and place: other data under the same name are not taken for these.
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    digest = hashlib.sha256(f"{name}\0{source}".encode()).hexdigest()[:8]
    file = folder / "data" / f"{slug}-{digest}{SUFFIX}"
    if not file.exists():
        print(f"weightcast: reading {source}", file=sys.stderr, flush=True)
        save_images(replace(load_images(source), name=name), file)
    return str(file.resolve())
