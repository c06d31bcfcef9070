"""inspect: everything about a saved folder that can be checked without the model it is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from weightcast.checkpoint.format import JSON_NAME, Facts, FormatError, read_facts, shortened
from weightcast.checkpoint.opened import opened
from weightcast.checkpoint.tensors import TensorFile

_LARGEST = 1 << 24  # bytes of facts; some four thousand layers


@dataclass(frozen=True)
class Inspection:
    """What a saved folder holds, all of it read and in agreement with its checksums.

    Args:
        facts: of the model.
        n_bytes: of both files.
        not_finite: names of tensors that hold NaN or infinite numbers.
    """

    facts: Facts
    n_bytes: int
    not_finite: tuple[str, ...]


def inspect(folder: str | os.PathLike[str]) -> Inspection:
    """Read a saved folder whole, one tensor at a time.

    Args:
        folder: that :func:`save` wrote.

    Raises:
        FormatError: files are missing, damaged or of another schema.
    """
    try:
        with opened(Path(folder)) as (facts_file, tensors_file):
            n_bytes = [os.fstat(file.fileno()).st_size for file in (facts_file, tensors_file)]
            if n_bytes[0] > _LARGEST:
                raise FormatError(f"is not read: {JSON_NAME} has {n_bytes[0]} bytes")
            facts = read_facts(facts_file.read(n_bytes[0]))
            file = TensorFile(tensors_file, facts.tensors)
            for alias, name in facts.ties.items():
                if name not in file.entries:
                    raise FormatError(f"is damaged: {shortened(alias)} is tied to nothing")
            not_finite = []
            for name in file.entries:
                tensor = file.read(name)
                if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
                    not_finite.append(name)
            for name in facts.layers:
                prefix = f"{name}." if name else ""
                for part in ("V", "atoms.indices"):
                    file.entry(facts.ties.get(prefix + part, prefix + part))
    except FormatError as error:
        raise FormatError(f"{folder} {error}") from error.__cause__
    return Inspection(facts, sum(n_bytes), tuple(not_finite))
