"""Hugging Face transformers: ``from_pretrained`` of networks with predicted layers.

Importing this module is all there is to do::

    import weightcast.integrations.huggingface

    model = wc.convert(LlamaForCausalLM(config), plan)  # or wc.compress, or wc.load
    Trainer(model, ...).train()                         # saves and resumes as ever
    model.save_pretrained("folder")
    model = AutoModelForCausalLM.from_pretrained("folder")

The network's config.json says which layers are predicted, and how; the weights' file holds V,
indices, and what cannot be rebuilt from the rules. transformers reads it by the way that it has for
quantised networks: the layers are put in their places before any weight is read. A dictionary that
comes out otherwise than the saved one is an error, and never a network that predicts otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from weightcast.dictionaries import Atoms, SharedBases
from weightcast.dictionaries.constants import named_constants
from weightcast.dictionaries.packing import unpack
from weightcast.layers import PredictedLayer, view
from weightcast.layers.rule import Rule
from weightcast.plan.eligibility import convertible_layers
from weightcast.storage.allowance import Allowance, building
from weightcast.storage.format_error import FormatError, excerpt, refusing
from weightcast.storage.rebuild import check_fingerprint
from weightcast.transform.hf_config import METHOD, SCHEMA, LayerRecord, note_in_config
from weightcast.transform.swap import swap


@register_quantization_config(METHOD)
class PredictedConfig(QuantizationConfigMixin):
    """The records of a network's predicted layers, as config.json holds them.

    Args:
        layers: JSON data of :class:`~weightcast.transform.hf_config.LayerRecord`, by layer.
        schema: version of this format.
    """

    def __init__(self, layers: Mapping[str, Any], schema: int, **_: Any) -> None:
        if schema != SCHEMA:
            raise FormatError(
                f"config.json has schema {excerpt(schema)} of predicted layers, this version of "
                f"weightcast reads {SCHEMA}: a newer one wrote it, and can read it"
            )
        self.quant_method = METHOD  # pyright: ignore[reportAttributeAccessIssue]
        self.schema, self.layers = schema, dict(layers)


@register_quantizer(METHOD)
class PredictedLayers(HfQuantizer):
    """Puts predicted layers where config.json says so, before transformers reads the weights."""

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        with refusing("config.json cannot be read"):
            config: Any = self.quantization_config
            layers = config.layers.items()
            read = {name: LayerRecord.from_dict(found, name) for name, found in layers}
        self.records = _named_as_in(model, read)
        bases, allowance = SharedBases(), Allowance(model, trusted=False)

        def make(name: str, dense: nn.Module, current: Any, *_: Any) -> PredictedLayer:
            record = self.records[name]
            layer = _skeleton(name, dense, record, bases, allowance)
            if record.twin in self.records:
                layer.tie(current.get_submodule(record.twin))
            return layer

        names = sorted(self.records, key=lambda name: self.records[name].twin is not None)
        swap(model, names, make, inplace=True)

        def named_buffers(*args: Any, **options: Any) -> Iterator[tuple[str, torch.Tensor]]:
            yield from type(model).named_buffers(model, *args, **options)
            yield from named_constants(model, persistent=True)

        # Of layers that stay on disk, transformers reads what the network lists as buffers.
        model.named_buffers = named_buffers

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        del model.named_buffers
        for name, record in self.records.items():
            layer: Any = model.get_submodule(name)
            layer.atoms.refresh()
            if record.fingerprint is not None and not layer.atoms.indices.is_meta:
                with refusing(f"config.json does not fit: layer {name!r}"):
                    check_fingerprint(name, layer, record.fingerprint, record.dtype)
        # From here on it is a network as convert makes them, and not a quantised one.
        self.remove_quantization_config(model)
        for module in model.modules():
            config: Any = getattr(module, "config", None)
            if getattr(config, "_is_quantized", False):
                del config._is_quantized
        note_in_config(model)

    def is_serializable(self) -> bool:
        """Yes: it saves as it was saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Yes, and all of it."""
        return True


def _named_as_in(model: Any, records: dict[str, LayerRecord]) -> dict[str, LayerRecord]:
    """The records under the names that this network has for the layers: a head adds a prefix."""
    dense, prefix = convertible_layers(model), f"{model.base_model_prefix}."
    names = {}
    for old in records:
        tried = (old, old.removeprefix(prefix), prefix + old)
        if new := next((name for name in tried if name in dense), None):
            names[old] = new
    if not names:
        raise FormatError(
            f"config.json has predicted layers {excerpt(list(records)[:3])}, and this "
            f"{type(model).__name__} has none of them"
        )
    return {
        new: replace(records[old], twin=names.get(records[old].twin or ""))
        for old, new in names.items()
    }


def _skeleton(
    name: str, dense: nn.Module, record: LayerRecord, bases: SharedBases, allowance: Allowance
) -> PredictedLayer:
    """A layer without V: what follows from its rule is there, all else waits for the file."""
    seen, rule = view(dense), record.rule
    n_visible, n_units = seen.sizes
    n_atoms, columns = rule.atoms_for(n_visible), rule.columns_for(n_units)
    with refusing(f"config.json does not fit: layer {name!r}"), torch.device("cpu"):
        if record.base is not None:
            atoms = _blank(rule, record, n_visible, (columns, n_atoms))
        elif rule.dictionary.rebuildable:
            some = torch.arange(n_atoms).expand(columns, n_atoms)
            allowance.spend(building(rule, seen.grid, n_visible, some), name)
            # The file's indices come later; those that weights would choose cannot be drawn here.
            given = some if rule.dictionary.from_weight else None
            atoms = rule.build(n_visible, n_units, grid=seen.grid, bases=bases, indices=given)
        else:
            raise ValueError(f"a {type(rule.dictionary).__name__} has a base, and none is named")
        layer = seen.predict(rule, seed=None, atoms=atoms, bases=bases)
        dtype = layer.V.dtype
        here = copy.deepcopy(atoms)
        layer.atoms = (here.float() if dtype.itemsize < 4 else here).to(dtype)
        layer.atoms.base = bases.place(atoms.base, layer.atoms.base, "here", dtype)
    return layer


def _blank(rule: Rule, record: LayerRecord, n_visible: int, shape: tuple[int, int]) -> Atoms:
    """Atoms of the stored shapes, all zero."""
    spec = record.base
    assert spec is not None
    numbers = sum(math.prod(factor) for factor in spec.shapes.values())
    # Nothing is allocated because a config says so: dictionaries have at most this many numbers.
    if numbers > 2 * n_visible * max(n_visible, math.prod(shape)):
        raise ValueError(f"its base is {spec.factors}, for {n_visible} inputs")
    learned = rule.dictionary.learns_base
    base = unpack(spec, lambda key: torch.zeros(spec.shapes[key]), learned=learned)
    if base.n_visible != n_visible:
        raise ValueError(f"its base is for {base.n_visible} inputs, the layer has {n_visible}")
    mixing = record.mixing
    if mixing is not None and math.prod(mixing) > math.prod(shape) * shape[1]:
        raise ValueError(f"its mixing is {mixing}, for atoms {shape}")
    M = None if mixing is None else torch.zeros(mixing)
    return Atoms(base, torch.zeros(shape, dtype=torch.int32), M)
