"""average: adapters of one U, weighed and averaged; what they add is averaged exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from weightcast.files import atomic_folder
from weightcast.storage.format_error import FormatError, naming
from weightcast.storage.manifest import (
    JSON_NAME,
    TENSORS_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)
from weightcast.storage.open_files import open_folder
from weightcast.storage.save import refuse_others
from weightcast.storage.tensors import TensorFile, write_tensors

Folder = str | os.PathLike[str]


def average(
    folders: Sequence[Folder], weights: Sequence[float] | None = None, into: Folder | None = None
) -> dict[str, Tensor]:
    """The weighted mean of saved adapters of one network and one U.

    W0 + U V is linear in V, so that the mean of what they add is what the mean adds; factors that
    are both learned, as LoRA's, have no such mean. Heads, biases, norms and buffers are averaged
    too, in double precision; whole numbers are the first adapter's. One tensor is held at a time
    for each folder.

    Args:
        folders: that :func:`save` wrote.
        weights: of each folder, such as its number of examples; divided by their sum. None weighs
            all alike.
        into: a folder for the mean adapter, which :func:`load` reads.

    Returns:
        Tensors by name, for ``model.load_state_dict(mean, strict=False)``.

    Raises:
        ValueError: no folders, weights that do not fit them, or another network, U or rule.
        FormatError: a folder that cannot be read, or holds no adapter.
    """
    shares = _shares(len(folders), weights)
    with ExitStack() as stack:
        manifests, files = [], []
        for folder in folders:
            with naming(folder):
                manifest_file, tensors_file = stack.enter_context(open_folder(Path(folder)))
                manifest = read_manifest(manifest_file.read())
                if manifest.origin is None:
                    raise FormatError("holds no adapter: save a model that wc.adapt made")
                files.append(TensorFile(tensors_file, manifest.tensors, manifest.packed))
                manifests.append(manifest)
        atoms = tuple(f"{layer}.atoms." for layer in manifests[0].layers)
        static = {name for name in files[0].entries if name.startswith(atoms)}
        for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
            _check_alike(folders[0], manifests[0], folder, manifest, static)
        mean = {name: _mean(name, files, shares) for name in files[0].entries if name not in static}
        if into is not None:
            kept = {name: files[0].read(name) for name in static}
            with atomic_folder(Path(into), refuse_others) as part:
                tensors = write_tensors(part / TENSORS_NAME, mean | kept)
                manifest = replace(manifests[0], tensors=tensors, packed={})
                (part / JSON_NAME).write_bytes(write_manifest(manifest))
    return mean


def _shares(n_folders: int, weights: Sequence[float] | None) -> list[float]:
    weights = [1.0] * n_folders if weights is None else [float(weight) for weight in weights]
    total = sum(weights)
    good = all(weight >= 0 for weight in weights) and 0 < total < math.inf
    if len(weights) != n_folders or not good:
        raise ValueError(
            f"{n_folders} folders and weights {weights}: give folders, and a weight for each that "
            "is not below 0, not all of them 0"
        )
    return [weight / total for weight in weights]


def _check_alike(
    one: Folder, first: Manifest, two: Folder, second: Manifest, static: set[str]
) -> None:
    """Refuse adapters of another network, of other rules, or of another U."""
    for what in ("plan", "layers", "ties"):
        if getattr(first, what) != getattr(second, what):
            raise ValueError(f"{one} and {two} differ in their {what}, and have no mean")
    if odd := sorted(first.tensors.keys() ^ second.tensors.keys()):
        raise ValueError(f"{one} and {two} do not learn the same: one of them lacks {odd[0]!r}")
    for name in sorted(static):
        if first.tensors[name] != second.tensors[name]:
            raise ValueError(
                f"{one} and {two} have another U, in {name!r}: adapt once, and train copies of it"
            )
    if first.origin != second.origin:
        raise ValueError(f"{one} and {two} are adapters of different networks, and have no mean")


def _mean(name: str, files: Sequence[TensorFile], shares: Sequence[float]) -> Tensor:
    first = files[0].read(name)
    if not first.is_floating_point():
        return first
    total = torch.zeros(first.shape, dtype=torch.float64)
    for file, share in zip(files, shares, strict=True):
        x = file.read(name)
        if x.shape != first.shape:
            raise ValueError(f"{name!r} is {tuple(first.shape)} in one and {tuple(x.shape)}")
        total += share * x.double()
    return total.to(first.dtype)
