"""Allowance: what building a folder's dictionaries again may take, counted before any is built."""

from __future__ import annotations

import math

from torch import Tensor, nn

from weightcast.dictionaries import Base, Site
from weightcast.dictionaries.work import NUMBER
from weightcast.grid import Grid
from weightcast.layers.rule import Rule
from weightcast.storage.manifest import FormatError

ALLOWED = 2**35
"""For any model: about a second on one core, or some 256 MiB of numbers."""
ALLOWED_PER_WEIGHT = 2**13
"""For each weight of the dense model: converting a large model takes as much."""


class Allowance:
    """What building dictionaries may take in all, for the model that is loaded into."""

    def __init__(self, model: nn.Module, *, trusted: bool) -> None:
        n_weights = sum(parameter.numel() for parameter in model.parameters())
        self.most = math.inf if trusted else ALLOWED + ALLOWED_PER_WEIGHT * n_weights
        self.spent = 0

    def spend(self, work: int, name: str) -> None:
        """Take the work of the layer ``name``, in multiply-adds; FormatError if too much."""
        self.spent += work
        if self.spent > self.most:
            raise FormatError(
                f"is not loaded: building the dictionary of layer {name!r} takes about {work:.1e} "
                f"multiply-adds, and all those of a model of this size may take {self.most:.1e}. "
                "If the folder is your own, load it with trusted=True, or save it with "
                'bases="store", which leaves nothing to be built'
            )


def building(rule: Rule, own: Grid | None, n_visible: int, indices: Tensor) -> int:
    """Multiply-adds of building atoms at (columns, n_atoms) indices, and of their fingerprint.

    ``own`` is the layer's grid. ValueError if it is of another size, or the base lacks the indices.
    """
    columns, n_atoms = indices.shape
    site = Site(n_visible, n_atoms, columns, rule.grid_for(own, n_visible), indices=indices)
    work = rule.dictionary.work(site)
    return work + 4 * (indices.numel() + n_visible) * NUMBER


def check_width(base: Base, columns: int, name: str) -> None:
    """Refuse, by a FormatError, a base of factors with far more atoms than the columns can use."""
    # Windows lie on a lattice of fewer than 2 * columns cells, each with n_visible atoms at most.
    if base.n_base > 2 * columns * base.n_visible:
        raise FormatError(
            f"does not fit: the base of layer {name!r} has {base.n_base:.1e} atoms, {columns} "
            f"columns of {base.n_visible} inputs need {2 * columns * base.n_visible} at most"
        )
