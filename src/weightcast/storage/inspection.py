"""inspect: everything about a saved folder that can be checked without the model it is for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from weightcast.storage.format_error import FormatError, excerpt, naming, refusing
from weightcast.storage.manifest import JSON_NAME, Manifest, read_manifest
from weightcast.storage.open_files import open_folder
from weightcast.storage.tensors import TensorFile

_LARGEST = 1 << 24  # bytes of a manifest; some four thousand layers
_CHUNK = 1 << 20  # numbers that are looked at together


@dataclass(frozen=True)
class Inspection:
    """What a saved folder holds, all of it read and in agreement with its checksums."""

    manifest: Manifest
    n_bytes: int  # of both files
    not_finite: tuple[str, ...]  # names of tensors that hold NaN or infinite numbers


def inspect(folder: str | os.PathLike[str]) -> Inspection:
    """Read all of a folder that :func:`save` wrote, one tensor at a time, or a FormatError."""
    with naming(folder), refusing("cannot be read"), open_folder(Path(folder)) as files:
        n_bytes = [os.fstat(file.fileno()).st_size for file in files]
        if n_bytes[0] > _LARGEST:
            raise FormatError(f"is not read: {JSON_NAME} has {n_bytes[0]} bytes")
        manifest = read_manifest(files[0].read(n_bytes[0]))
        file = TensorFile(files[1], manifest.tensors, manifest.packed)
        for alias, name in manifest.ties.items():
            if name not in file.entries:
                raise FormatError(f"is damaged: {excerpt(alias)} is tied to nothing")
        _check_counts(manifest, file)
        # Each is read, and so compared with its checksum; no two are held at once.
        not_finite = [name for name in file.entries if not _is_finite(file.read(name))]
        return Inspection(manifest, sum(n_bytes), tuple(not_finite))


def _check_counts(manifest: Manifest, file: TensorFile) -> None:
    """Refuse a manifest that states other numbers than the tensors have; none of them is read."""
    total = sum(math.prod(entry.shape) for entry in file.entries.values())
    saved, learned = manifest.counts.get("saved", 0), manifest.counts.get("learned", 0)
    if saved != total:
        raise FormatError(f"is damaged: it says that it saves {saved:,} numbers, and has {total:,}")
    if not 0 <= learned <= total:
        raise FormatError(
            f"is damaged: it says that {learned:,} numbers are learned, and has {total:,}"
        )
    for name, layer in manifest.layers.items():
        prefix = f"{name}." if name else ""
        found = sum(
            math.prod(file.entry(manifest.ties.get(prefix + part, prefix + part)).shape)
            for part in _learned_parts(manifest, name, file)
        )
        if layer.learned != found:
            raise FormatError(
                f"is damaged: layer {excerpt(name)} says that it learns {layer.learned:,} "
                f"numbers, and has {found:,}"
            )


def _learned_parts(manifest: Manifest, name: str, file: TensorFile) -> list[str]:
    """The tensors that a layer learns; FormatError if it has no indices, as numbers or a mask."""
    rule, key = manifest.plan.rules[name], f"{name}.bias" if name else "bias"
    mask = f"{name}.atoms.mask" if name else "atoms.mask"
    if mask not in file.entries and mask not in manifest.ties:
        indices = mask.removesuffix("mask") + "indices"
        file.entry(manifest.ties.get(indices, indices))
    parts = ["V"]
    if key in file.entries or key in manifest.ties:
        parts.append("bias")
    if rule is not None and rule.dictionary.learns_base:
        parts.append("atoms.base.atoms")
    return parts


def _is_finite(tensor: Tensor) -> bool:
    """Whether a contiguous tensor holds neither NaN nor infinity, in its own dtype."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    for chunk in tensor.flatten().split(_CHUNK):
        # torch tells it of no 8-bit float; single precision holds them all.
        if not bool((chunk.float() if chunk.element_size() == 1 else chunk).isfinite().all()):
            return False
    return True
