"""Which layers of a model can be predicted, and why the others cannot."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from weightcast.layers import (
    PREDICTED,
    SPLIT,
    DenseParameter,
    PredictedLayer,
    PredictedModule,
    find_view,
    split_module,
    split_refusal,
    view,
)

KINDS = tuple(cls.__name__ for cls in (*PREDICTED, *SPLIT) if cls is not DenseParameter)
"""Names of torch's layers that can be predicted."""


def convertible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Dense layers that can be predicted, by their first name; subclasses are left alone.

    Of modules that read their weights themselves (attention, recurrent layers, experts) these are
    the weights, each as a layer that shares its parameter with the module. These layers are called,
    and can be replaced, only once the module is split: :func:`weightcast.layers.splitting`.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, PredictedLayer):
            continue
        if find_view(module) is not None:
            layers[name] = module
        elif (split := split_module(module)) is not None:
            layers |= {
                f"{name}.{part}".lstrip("."): layer for part, layer in split.layers().items()
            }
    return layers


def owners_of_parts(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """The module that a layer is a weight of, by name, for layers that are part of one."""
    modules = dict(model.named_modules())
    parents = {name: name.rpartition(".")[0] for name in layers}
    return {
        name: parent
        for name, parent in parents.items()
        if modules.get(name) is not layers[name] or isinstance(modules[parent], PredictedModule)
    }


def tied_layers(layers: Mapping[str, nn.Module]) -> list[list[str]]:
    """Groups of two or more layers that have one weight.

    Args:
        layers: of one model, by name.
    """
    groups: dict[int, list[str]] = {}
    for name, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is not None:
            groups.setdefault(id(weight), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def refusals(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Why some layers of kinds that can be predicted cannot be as they are, and the remedy.

    Args:
        model: that holds the layers.
        layers: its :func:`convertible_layers`.
    """
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(f"{name}.{key}".lstrip("."))
    tied = {name: group for group in tied_layers(layers) for name in group}
    found = {}
    for name, layer in layers.items():
        reason = _layer_refusal(layer)
        if reason is None:
            group = [layers[other] for other in tied.get(name, [name])]
            reason = _tie_refusal(holders[id(layer.weight)], group)
        if reason is not None:
            found[name] = reason
    for name, group in tied.items():  # together or not at all
        blocked = next((other for other in group if other in found), None)
        if name not in found and blocked is not None:
            found[name] = f"is tied to {blocked!r}, which cannot be predicted: {found[blocked]}"
    return found


def module_refusal(module: nn.Module) -> str:
    """Why a module whose kind cannot be predicted stays as it is, and the remedy if there is one.

    Args:
        module: none of the layers that can be predicted.
    """
    if any(p is not None and is_lazy(p) for p in module._parameters.values()):
        return "is lazy, its shape is not known yet: run the model once on example inputs first"
    if is_quantised(module):
        return "is quantised: convert the model before quantising it"
    if parametrize.is_parametrized(module):
        return (
            "its weight is computed by a parametrisation (weight norm, spectral norm or the like): "
            "remove it first, torch.nn.utils.parametrize.remove_parametrizations"
        )
    if refusal := split_refusal(module):
        return str(refusal)
    for kind in (*PREDICTED, *SPLIT):
        if isinstance(module, kind):
            return (
                f"is a subclass of {kind.__name__}, and what it computes is not known: leave it "
                f"dense, or put nn.{kind.__name__} in its place"
            )
    matrices = {n: tuple(p.shape) for n, p in module._parameters.items() if p is not None}
    matrices = {n: shape for n, shape in matrices.items() if len(shape) > 1}
    if not matrices:
        return "holds no matrix"
    listed = ", ".join(f"{name} {shape}" for name, shape in matrices.items())
    return f"uses {listed} itself, in a way that is not known: it stays dense"


def is_quantised(module: nn.Module) -> bool:
    """Whether a module's weights are held in a quantised form, parameters or not."""
    package = type(module).__module__
    if ".quantized" in package or package.split(".")[0] in ("bitsandbytes", "torchao"):
        return True
    if parametrize.is_parametrized(module):
        return False  # and its weight, if read, would be computed, by one more step of a norm's
    weight = getattr(module, "weight", None)
    if callable(weight) or not isinstance(weight, torch.Tensor):
        return False
    return weight.is_quantized or (
        not isinstance(module, nn.Embedding) and weight.dtype in (torch.int8, torch.uint8)
    )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model.

    Args:
        model: to copy.

    Raises:
        ValueError: a module keeps a tensor that was computed from others, which torch does not
            copy: by pruning or weight norm of the old style, for example.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        for name, module in model.named_modules():
            for key, value in (*vars(module).items(), *module._buffers.items()):
                if isinstance(value, torch.Tensor) and not value.is_leaf:
                    raise ValueError(
                        f"the model cannot be copied, because {key!r} of module {name!r} "
                        f"({type(module).__name__}) is computed from its parameters: remove that "
                        "first (torch.nn.utils.prune.remove, remove_weight_norm or "
                        "remove_spectral_norm), or run the model under torch.no_grad() once"
                    ) from error
        raise


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called along with the module."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._state_dict_hooks,
        module._state_dict_pre_hooks,
        module._load_state_dict_pre_hooks,
        module._load_state_dict_post_hooks,
    )
    return any(hooks)


def check_values(model: nn.Module) -> None:
    """Refuse a model whose weights are wanted and are not there.

    Raises:
        ValueError: a parameter or buffer on the meta device.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"{name!r} is on the meta device and holds no values: load the weights first, "
                "model.to_empty(device=...) and load_state_dict"
            )


def weight_refusal(layer: Any) -> str | None:
    """Why a layer's weight cannot be read as a matrix, and the remedy; None if it can.

    Args:
        layer: one of :func:`convertible_layers`.
    """
    weight = layer._parameters.get("weight")
    if weight is None:
        return (
            "its weight is no plain parameter (weight norm, pruning or the like): remove that "
            "first, or leave the layer dense"
        )
    if type(weight) is not nn.Parameter:
        return (
            f"its weight is a {type(weight).__name__}, no plain parameter: convert the model "
            "before quantising or sharding it"
        )
    if not weight.is_floating_point() or weight.element_size() < 2:
        return f"its weight is {weight.dtype}, not floating point of 16 bits or more"
    if weight.numel() == 0:
        return f"its weight is {tuple(weight.shape)} and holds nothing: leave the layer dense"
    refusal = view(layer).refusal
    return None if refusal is None else str(refusal)


def _layer_refusal(layer: Any) -> str | None:
    if reason := weight_refusal(layer):
        return reason
    if not layer.weight.requires_grad:
        return (
            "is frozen (requires_grad=False), and a frozen V would never be learned: call "
            "requires_grad_(True) first and freeze V later, or leave the layer dense"
        )
    return _addition_refusal(layer, layer.weight)


def _addition_refusal(layer: nn.Module, weight: nn.Parameter) -> str | None:
    """What was added to a layer, or to its weight, and would be lost with it."""
    if has_hooks(layer):
        return "has hooks, which a replaced layer would lose: remove them first"
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return "has hooks on its weight, which V would not have: remove them first"
    if "forward" in vars(layer):
        return (
            "has a forward of its own in place of its class's, and what it computes is not known: "
            "delete that attribute first (accelerate: remove_hook_from_module), or leave the layer "
            "dense"
        )
    own = {*layer._parameters, *layer._buffers, *layer._modules} - {"weight", "bias"}
    if own:
        return (
            f"has {', '.join(map(repr, sorted(own)))} beside its weight and bias, which a replaced "
            "layer would lose: leave it dense, or hold that elsewhere"
        )
    return None


def _tie_refusal(names: list[str], group: list[nn.Module]) -> str | None:
    """Why the layers of one weight cannot be predicted together.

    Args:
        names: of all places of the model that hold the weight.
        group: the layers among them.
    """
    if len(names) > len(group):
        why = "and not all of these can be predicted"
    elif len({_layout(layer) for layer in group}) > 1:
        why = "and the units of these lie along different axes"
    else:
        return None
    return f"is tied ({' = '.join(names)}), {why}: leave it dense, or untie them"


def _layout(layer: Any) -> tuple[Any, ...]:
    """How a layer's units lie in its weight."""
    rows = view(layer).filters(torch.empty(layer.weight.shape, device="meta"))
    return tuple(rows.shape), rows.stride()
