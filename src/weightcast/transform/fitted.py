"""FittedFolder: layers that a compression has fitted, from which it can go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, SharedBases
from weightcast.dictionaries.packing import BaseSpec, pack, unpack
from weightcast.inputs.batches import given_tensors
from weightcast.layers import PredictedLayer, view
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast.serialization import decode, encode
from weightcast.transform.state_folder import StateFolder, digest


class FittedFolder:
    """Fitted layers on disk: V, bias, and what of the atoms does not follow from the rule.

    Args:
        path: made if it is missing.
        model: dense; a folder of other weights, inputs, rules or settings is a ValueError.
        rules: of the layers.
        settings: all else that decides the result, as JSON data.
        batches: the example inputs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        rules: Mapping[str, Rule],
        settings: dict[str, Any],
        batches: Iterable[Any] | None,
    ) -> None:
        self.rules = rules
        self._numbers = {name: number for number, name in enumerate(self.rules)}
        tensors = (x for batch in batches or () for x in given_tensors(batch))
        inputs = ((str(n), x) for n, x in enumerate(tensors))
        config = {
            "plan": Plan(rules).to_dict(),
            "settings": settings,
            "weights": digest(model.state_dict().items()),
            "inputs": digest(inputs),
            "initial": dict.fromkeys(self.rules, ""),
        }
        self._states = StateFolder(path, "compression", config)

    def save(self, name: str, layer: PredictedLayer, bias: Tensor | None, told: str) -> None:
        """Keep a layer, with the bias that it will have and what is told of it."""
        tensors = {"V": layer.V, "indices": layer.atoms.indices}
        facts: dict[str, Any] = {"layer": name, "told": told}
        if bias is not None:
            tensors["bias"] = bias
        if not layer.rule.dictionary.rebuildable:
            spec, factors = pack(layer.atoms.base)
            facts["base"] = encode(spec)
            tensors |= {f"base.{key}": factor for key, factor in factors.items()}
            if layer.atoms.mixing is not None:
                tensors["mixing"] = layer.atoms.mixing
        self._states.save(self._numbers[name], facts, tensors)

    def load(self, name: str, layer: Any, bases: SharedBases) -> tuple[PredictedLayer, str] | None:
        """The layer in a dense one's place, which is given its bias; None if it is not there."""
        found = self._states.load(self._numbers[name])
        if found is None:
            return None
        (facts, tensors), rule = found, self.rules[name]
        if rule.dictionary.rebuildable:
            fitted = view(layer).predict(rule, indices=tensors["indices"], bases=bases)
        else:
            spec = decode(BaseSpec, facts["base"], f"layer {name!r}")
            read = {key: t.double() for key, t in tensors.items() if t.is_floating_point()}
            base = unpack(
                spec, lambda key: read[f"base.{key}"], learned=rule.dictionary.learns_base
            )
            atoms = Atoms(base, tensors["indices"], read.get("mixing"))
            fitted = view(layer).predict(rule, atoms=atoms)
        with torch.no_grad():
            fitted.V.copy_(tensors["V"])
        if "bias" in tensors:
            old = layer.bias
            layer.bias = nn.Parameter(tensors["bias"].to(old), requires_grad=old.requires_grad)
        return fitted, f"{facts['told']} (from the folder)"
