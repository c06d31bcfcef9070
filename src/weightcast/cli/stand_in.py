"""StandIn: the layers of a state dict, where nothing tells what the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_EMBEDDINGS = ("emb", "wpe", "wte")  # in the name of a table

GUESSED = (
    "A state dict does not tell the classes of the model's layers: they were guessed from "
    "shapes and names. Should load refuse the folder, or a layer be missing, name what "
    "makes the model: --factory package.module:function with --allow-import"
)
"""What to bear in mind of a folder that is saved from a :class:`StandIn`."""


class StandIn(nn.Module):
    """A stand-in for the model of a state dict: its linear layers and convolutions, by name.

    It cannot be run; its layers can be converted and compressed, and the folder that is saved is
    loaded into the real model, if its classes are those that were guessed. A ``weight`` of two axes
    is taken for a linear layer's (an embedding's, if its name says so), one of three to five for a
    convolution's; other tensors stay as they are, as do layers that hold more than weight and bias,
    whose matrix is transposed, or that attention reads itself.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers = _layer_names(tensors)
        for name in sorted(tensors, key=lambda name: _is_read_by_none(tensors[name], tensors)):
            tensor = tensors[name]
            owner, _, leaf = name.rpartition(".")
            try:
                if owner not in layers:
                    _submodule(self, owner).register_buffer(leaf, tensor)
                elif leaf == "weight":
                    above, _, child = owner.rpartition(".")
                    layer = _layer(child, tensor, tensors.get(f"{owner}.bias"))
                    _submodule(self, above).add_module(child, layer)
            except (AttributeError, KeyError) as error:
                raise ValueError(f"no model has a tensor called {name!r}: {error}") from error

    @property
    def is_partial(self) -> bool:
        """Whether there are matrices, or larger tensors, that were taken for no layer's."""
        return any(tensor.dim() > 1 for tensor in self.buffers())


def _layer_names(tensors: Mapping[str, Tensor]) -> set[str]:
    """The modules that are taken for layers."""
    owned: dict[str, set[str]] = {}
    for name in tensors:
        owner, _, leaf = name.rpartition(".")
        while owner:  # by all modules that it is in
            owned.setdefault(owner, set()).add(leaf)
            owner, _, child = owner.rpartition(".")
            leaf = f"{child}.{leaf}"
    named = {n: f"{n}.weight" for n, leaves in owned.items() if leaves <= {"weight", "bias"}}
    found = {name: tensors[weight] for name, weight in named.items() if weight in tensors}
    found = {n: W for n, W in found.items() if 2 <= W.dim() <= 5 and W.is_floating_point()}
    biases = {name: tensors.get(f"{name}.bias") for name in found}
    turned = {name for name, W in found.items() if _fits(biases[name], W.shape[1])}
    turned = {name for name in turned if not _fits(biases[name], len(found[name]))}
    doubtful = {found[name].dim() for name in turned}  # where square ones may be turned, too
    return {
        name
        for name, W in found.items()
        if (biases[name] is None or _fits(biases[name], len(W)))
        and not (W.dim() in doubtful and W.shape[0] == W.shape[1])
        and not _is_read_by_attention(name, tensors)
    }


def _fits(bias: Tensor | None, n_units: int) -> bool:
    return bias is not None and tuple(bias.shape) == (n_units,)


def _is_read_by_attention(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a layer is the output's of nn.MultiheadAttention, which is no layer of its own."""
    above, _, child = name.rpartition(".")
    packed = ("in_proj_weight", "q_proj_weight")
    return child == "out_proj" and any(f"{above}.{w}".lstrip(".") in tensors for w in packed)


def _is_read_by_none(weight: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether no layer has as many inputs as this one has units: it is taken for the last."""
    return weight.dim() > 1 and all(
        other.dim() < 2 or other.shape[1] != len(weight) for other in tensors.values()
    )


def _layer(name: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer of a weight; its name tells tables from matrices."""
    n_units, n_inputs, *size = weight.shape
    layer: Any
    if size:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
        layer = nn.utils.skip_init(kind, n_inputs, n_units, tuple(size), bias=bias is not None)
    elif bias is None and any(part in name.lower() for part in _EMBEDDINGS):
        layer = nn.utils.skip_init(nn.Embedding, n_units, n_inputs)
    else:
        layer = nn.utils.skip_init(nn.Linear, n_inputs, n_units, bias=bias is not None)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer.to(weight.dtype).load_state_dict(state)
    return layer


def _submodule(root: nn.Module, name: str) -> nn.Module:
    """The module of this name, made where it is missing."""
    module = root
    for part in name.split(".") if name else ():
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module
