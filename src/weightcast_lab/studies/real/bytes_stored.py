"""What a compressed matrix takes in a file: the one place where bytes are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stored:
    """What has to be kept of a matrix.

    Args:
        numbers: real ones: factors, kept weights, scales and offsets of groups.
        bits: all else: masks, quantised weights.
    """

    numbers: int
    bits: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.numbers + other.numbers, self.bits + other.bits)

    def bytes(self, bits_per_number: int = 32) -> int:
        """In a file, whole bytes."""
        return -(-(self.numbers * bits_per_number + self.bits) // 8)


def affordable_rank(shape: Sequence[int], share: float) -> int:
    """The largest rank whose two factors take no more than this share of the matrix; at least 1."""
    n_visible, n_units = shape
    return max(1, int(share * n_visible * n_units / (n_visible + n_units)))


def affordable_entries(shape: Sequence[int], share: float) -> int:
    """How many 32-bit weights fit into a share of the matrix, with a mask of one bit for each."""
    return max(1, int((share - 1 / 32) * math.prod(shape)))


def affordable_atoms(
    shape: Sequence[int], share: float, ratio: float, most: int
) -> tuple[int, int]:
    """Atoms of a base, and how many of them each unit takes, with a mask, in 32-bit numbers.

    Args:
        shape: n_visible, n_units.
        share: of the matrix.
        ratio: atoms in the base to those a unit takes.
        most: atoms that a base can have; what it then saves, units take.

    Returns:
        n_base and n_atoms, each at least 1.
    """
    n_visible, n_units = shape
    budget = share * n_visible * n_units
    n_base = int(budget / (n_visible + n_units / 32 + n_units / ratio))
    n_base = max(1, min(n_base, most))
    n_atoms = int((budget - n_base * (n_visible + n_units / 32)) / n_units)
    return n_base, max(1, min(n_atoms, n_base))
