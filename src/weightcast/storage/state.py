"""What of a model's state is saved: all of it but what can be rebuilt, each tensor once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightcast.dictionaries.packing import BaseSpec, pack, pack_indices
from weightcast.layers import PredictedLayer, adapted_layers, is_freed
from weightcast.layers.rule import written_rule
from weightcast.storage.tensors import check_storable


def saved_tensors(
    model: nn.Module, layers: dict[str, PredictedLayer], *, store: bool
) -> tuple[dict[str, Tensor], dict[str, BaseSpec]]:
    """The tensors to save, and how the bases among them are kept; ``store``: all bases.

    ``layers`` are the model's predicted layers by their first names.
    """
    state = own_state(model)
    check_state(state)
    bases = {}
    for name, layer in layers.items():
        prefix = f"{name}.atoms." if name else "atoms."
        kept, indices = pack_indices(layer.atoms.indices, layer.atoms.base.n_base)
        state[prefix + kept] = indices
        if store or not written_rule(layer.rule).dictionary.rebuildable:
            bases[name], factors = pack(layer.atoms.base)
            state |= {f"{prefix}base.{key}": factor for key, factor in factors.items()}
            if layer.atoms.mixing is not None:
                state[f"{prefix}mixing"] = layer.atoms.mixing
    return state, bases


def own_state(model: nn.Module) -> dict[str, Any]:
    """The state dict without dictionaries; of an adapted model without what is frozen."""
    state = without_atoms(model, model.state_dict())
    if adapted_layers(model):
        for name, p in model.named_parameters(remove_duplicate=False):
            if not is_freed(p):
                state.pop(name, None)
    return state


def check_state(state: Mapping[str, Any]) -> None:
    """Refuse a state that these files could not hold, or give back, as a whole."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name!r} in the model's state is a {type(value).__name__}, and only tensors are "
                "saved: keep it in a buffer, or leave it out of state_dict"
            )
        if name.rpartition(".")[2] == "_extra_state":
            raise ValueError(
                f"{name!r} is a module's extra state, which is not saved: keep it in a buffer"
            )
        if is_lazy(value):
            raise ValueError(
                f"{name!r} has no shape yet: call the model once, on example inputs, so that its "
                "lazy modules know their sizes"
            )
        if not value.is_meta:  # of which others have more to say
            check_storable(repr(name), value)


def without_atoms(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The state dict of a model without its dictionaries, under all of their names."""
    prefixes = tuple(
        f"{name}.atoms." if name else "atoms."
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, PredictedLayer)
    )
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def identity(tensor: Tensor) -> Any:
    """A key that two tensors share if they are the same numbers in the same memory."""
    signs = tensor.is_conj(), tensor.is_neg()
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, signs)


def untied(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and the other names of the same ones to the name it has there."""
    tensors, ties, first = {}, {}, {}
    for name, tensor in state.items():
        key = identity(tensor)
        if tensor.numel() and key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor
    return tensors, ties
