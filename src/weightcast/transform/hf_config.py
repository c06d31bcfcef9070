"""hf_config: a transformers network's own config says which of its layers are predicted, and how.

``save_pretrained`` writes config.json beside the weights. So whatever saves such a network, the
Trainer too, saves the rules with V; ``weightcast.integrations.huggingface`` reads them. Its classes
are known by their name: transformers is not imported here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from weightcast.dictionaries.fingerprint import Fingerprint, fingerprint
from weightcast.dictionaries.packing import BaseSpec, pack
from weightcast.layers import AdaptedLayer, PredictedLayer, adapted_layers, predicted_layers
from weightcast.layers.rule import Rule, written_rule
from weightcast.serialization import Configuration

SCHEMA = 1
METHOD = "weightcast (import weightcast.integrations.huggingface)"
"""The name of the format; transformers prints it where it does not know it."""


@dataclass(frozen=True)
class LayerRecord(Configuration):
    """How one layer is predicted.

    Args:
        rule: its rule.
        base: what its base is made of, where the weights' file holds it; None where the rule does.
        mixing: the shape of M; None for the identity.
        twin: the name of the layer that it took V and atoms from.
        fingerprint: of what follows from the rule, in ``dtype``.
        dtype: the name of V's.
    """

    rule: Rule
    base: BaseSpec | None = None
    mixing: tuple[int, ...] | None = None
    twin: str | None = None
    fingerprint: Fingerprint | None = None
    dtype: str = "float32"


class ConfigRecord:
    """What config.json says of predicted layers, read off the network when it is asked."""

    quant_method = METHOD

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)  # the model holds the config, which holds this

    def to_dict(self) -> dict[str, Any]:
        """JSON data: of every predicted layer its :class:`LayerRecord`."""
        model = self._model()
        assert model is not None, "a config asks after its network is gone"
        layers = {name: record.to_dict() for name, record in _records(model).items()}
        return {"quant_method": METHOD, "schema": SCHEMA, "layers": layers}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        model = self._model()
        copied = memo.get(id(model))
        return self.to_dict() if copied is None else ConfigRecord(copied)

    def __reduce__(self) -> Any:
        return dict, (self.to_dict(),)


def note_in_config(model: nn.Module) -> None:
    """Let every transformers network in ``model`` know of its predicted layers, or of none."""
    inner: set[int] = set()
    for module in model.modules():
        if id(module) in inner or not _is_pretrained(module):
            continue
        inner.update(map(id, module.modules()))
        config: Any = module.config
        known = getattr(config, "quantization_config", None)
        ours = isinstance(known, ConfigRecord) or _method_of(known) == METHOD
        if predicted_layers(module) and not adapted_layers(module):
            if known is None or ours:
                config.quantization_config = ConfigRecord(module)
                # No names of earlier versions, as ViT's: the Trainer does not read them back
                # (huggingface/transformers#48805).
                module._weight_conversions = []  # pyright: ignore[reportArgumentType]
        elif ours:
            del config.quantization_config
        _note_ties(module)


def _records(model: nn.Module) -> dict[str, LayerRecord]:
    layers = predicted_layers(model)
    twins = _twins(layers)
    return {name: _record(layer, twins.get(name)) for name, layer in layers.items()}


def _twins(layers: Mapping[str, PredictedLayer]) -> dict[str, str]:
    """Names of layers that took V and atoms from another, to that one's name."""
    owners = {id(layer.V): name for name, layer in layers.items() if not layer.is_twin}
    return {name: owners[id(layer.V)] for name, layer in layers.items() if layer.is_twin}


def _record(layer: PredictedLayer, twin: str | None) -> LayerRecord:
    atoms, rule = layer.atoms, written_rule(layer.rule)
    stored = not rule.dictionary.rebuildable
    return LayerRecord(
        rule=rule,
        base=pack(atoms.base)[0] if stored else None,
        mixing=None if atoms.mixing is None else tuple(atoms.mixing.shape),
        twin=twin,
        fingerprint=None if stored or layer.V.is_meta else fingerprint(atoms),
        dtype=str(layer.V.dtype).removeprefix("torch."),
    )


def _note_ties(model: Any) -> None:
    """Tell transformers that it ties V now, where a tied weight is predicted.

    It takes the names from ``_tied_weights_keys``: each target's to that of its source.
    """
    for module in model.modules():
        if _is_pretrained(module) and isinstance(getattr(module, "_tied_weights_keys", None), dict):
            ties = type(module)._tied_weights_keys or {}
            module._tied_weights_keys = dict(_tied_keys(module, ties))
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _tied_keys(module: nn.Module, ties: dict[str, str]) -> Iterator[tuple[str, str]]:
    layers = dict(module.named_modules(remove_duplicate=False))
    for target, source in ties.items():
        ends = [name.removesuffix(".weight") for name in (target, source)]
        adapted = [isinstance(layers.get(name), AdaptedLayer) for name in ends]
        if any(adapted):
            one, two = (
                f"{name}.frozen.weight" if own else f"{name}.weight"
                for name, own in zip(ends, adapted, strict=True)
            )
            yield one, two
        if all(adapted):
            yield f"{ends[0]}.delta.V", f"{ends[1]}.delta.V"
        elif any(adapted):
            continue
        elif all(isinstance(layers.get(name), PredictedLayer) for name in ends):
            yield f"{ends[0]}.V", f"{ends[1]}.V"
        else:
            yield target, source


def _is_pretrained(module: nn.Module) -> bool:
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.")
        for kind in type(module).__mro__
    )


def _method_of(known: Any) -> str | None:
    return known.get("quant_method") if isinstance(known, dict) else None
