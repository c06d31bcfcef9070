"""share: so many learned weights, shared over the layers of a network that is to be adapted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from weightcast.dictionaries import DCT, PCA, RandomGaussian
from weightcast.inputs.survey import survey
from weightcast.layers import relative_refusal, view
from weightcast.layers.rule import Rule
from weightcast.plan.eligibility import convertible_layers, groups_of_one_weight, refusals
from weightcast.plan.plan import Plan
from weightcast.serialization import plain

MIN_WEIGHTS = 1_000
"""Layers with fewer weights stay as they are."""

COLUMNS = 16
"""Of a layer that is no convolution: 16 to 64 groups of units were as good in MiniLM."""


def share_learned(
    model: nn.Module, learned: int, batches: list[Any] | None, columns: int | None = None
) -> Plan:
    """A plan by which no more than ``learned`` weights are added, equally many atoms to each layer.

    What is left over goes to the layers that run last. Whitened leading directions of the inputs
    are dealt to ``columns`` (of convolutions 1), fewer where inputs or units are few. Without
    batches rules are relative, of cosines in one column; predicted and quantised layers take
    random atoms. Layers whose inputs cannot be seen, small and tied ones and the last are left out.

    Raises:
        ValueError: no layer to adapt, or fewer weights than one atom of one layer.
    """
    layers = convertible_layers(model, predicted=True)
    sizes, learned = _sizes(model, layers, batches), plain(learned)
    if type(learned) is not int or learned < min(n_units for _, n_units in sizes.values()):
        least = min(sizes, key=lambda name: sizes[name][1])
        raise ValueError(
            f"learned is {learned!r}, and one atom of the smallest layer, {least!r}, learns "
            f"{sizes[least][1]:,} weights: give a whole number that is at least that"
        )
    counts, left, gave = dict.fromkeys(sizes, 0), learned, True
    while gave:
        gave = False
        for name, (n_visible, n_units) in reversed(sizes.items()):
            if counts[name] < n_visible and n_units <= left:
                counts[name], left, gave = counts[name] + 1, left - n_units, True
    added = RandomGaussian() if batches is None else PCA(whiten=True)
    rules: dict[str, Rule | None] = {}
    for (name, (n, m)), n_atoms in zip(sizes.items(), counts.values(), strict=True):
        if n_atoms:
            relative = batches is None and relative_refusal(layers[name]) is None
            one = relative or view(layers[name]).grid
            groups = min(columns or (1 if one else COLUMNS), m, n // n_atoms)
            dictionary = DCT() if relative else added
            rules[name] = Rule(dictionary, columns=groups, n_atoms=n_atoms, relative=relative)
    return Plan({**rules, "*": None})


def _sizes(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: list[Any] | None
) -> dict[str, tuple[int, int]]:
    """(n_visible, n_units) of the layers that can be adapted, in the order in which they run."""
    seen = [name for name, layer in layers.items() if not view(layer).blindness]
    order = seen if batches is None else survey(model, seen, batches).order
    alone = {group[0] for group in groups_of_one_weight(layers) if len(group) == 1}
    free = alone - refusals(model, layers, adapting=True).keys()
    sizes = {name: view(layers[name]).sizes for name in order[:-1] if name in free}
    sizes = {name: (n, m) for name, (n, m) in sizes.items() if n * m >= MIN_WEIGHTS}
    if not sizes:
        raise ValueError(
            f"no layer to adapt: of {len(order)} that multiply inputs the last one, those under "
            f"{MIN_WEIGHTS:,} weights, tied and refused ones are left out: name layers in a Plan"
        )
    return sizes
