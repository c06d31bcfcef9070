"""StoredAtoms: stands in a saved model for a dictionary that has no text form."""

from __future__ import annotations

from dataclasses import dataclass

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary
from weightcast.dictionaries.input_site import Site


@dataclass(frozen=True)
class StoredAtoms(Dictionary):
    """Atoms that were built elsewhere and came with a saved model; no recipe is known for them."""

    def build(self, site: Site) -> Atoms:
        """Refuse: there is nothing to build from."""
        raise ValueError(
            f"the atoms of this layer ({site.n_visible} inputs) came from a saved model whose "
            "dictionary has no text form: load that model, or name the dictionary in Python"
        )
