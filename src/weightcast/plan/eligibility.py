"""Which layers of a model can be predicted, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from weightcast.layers import (
    PREDICTED,
    SPLIT,
    AdaptedLayer,
    DenseParameter,
    PredictedLayer,
    PredictedModule,
    Refusal,
    adapted_layers,
    find_view,
    split_module,
    split_refusal,
    view,
)
from weightcast.layers.view import is_torchaos
from weightcast.plan.adapters import (
    OWN_PART,
    adapter_refusal,
    adapters,
    adapters_of,
    is_own_part,
)

predicate = partial(Refusal, predicate=True)
"""A refusal that goes on from the layer's name."""

_HOOKS = (
    *("forward", "forward_pre", "backward", "backward_pre"),
    *("state_dict", "state_dict_pre", "load_state_dict_pre", "load_state_dict_post"),
)


def kinds() -> list[str]:
    """The names of the layer types that can be predicted, those that were registered too."""
    return [cls.__name__ for cls in (*PREDICTED, *SPLIT) if cls is not DenseParameter]


def convertible_layers(model: nn.Module, *, predicted: bool = False) -> dict[str, nn.Module]:
    """Dense layers that can be predicted, by their first name; subclasses are left alone.

    Of modules that read their weights themselves (attention, recurrent layers, experts) these are
    the weights, each as a layer that shares its parameter with the module. The module calls these
    layers, and they can be replaced, only once it is split. Of adapters it is the bases; layers
    that are adapted already are none of them. With ``predicted`` predicted layers come too.
    """
    layers: dict[str, nn.Module] = {}
    held = adapters(model)
    adapted = {id(m) for layer in adapted_layers(model).values() for m in layer.modules()}
    for name, module in model.named_modules():
        if is_own_part(name, held) or id(module) in adapted:
            continue
        if find_view(module) is not None:
            is_dense = not isinstance(module, PredictedLayer)
            layers |= {name: module} if is_dense or predicted else {}
        elif (split := split_module(module)) is not None:
            parts = split.layers().items()
            layers |= {f"{name}.{part}".lstrip("."): layer for part, layer in parts}
    return layers


def owners_of_parts(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """The module that a layer is a weight, or the base, of, by name, for layers that are one's."""
    modules, held = dict(model.named_modules()), adapters(model)
    parents = {name: name.rpartition(".")[0] for name in layers}
    owners = {
        name: parent
        for name, parent in parents.items()
        if modules.get(name) is not layers[name] or isinstance(modules[parent], PredictedModule)
    }
    return {name: above[-1] for name in layers if (above := adapters_of(name, held))} | owners


def groups_of_one_weight(layers: Mapping[str, nn.Module]) -> list[list[str]]:
    """The names of one model's layers, those that have the same weight together."""
    groups: dict[int, list[str]] = {}
    for name, layer in layers.items():
        weight = layer._parameters.get("weight", layer._parameters.get("V"))
        groups.setdefault(id(layer if weight is None else weight), []).append(name)
    return list(groups.values())


def refusals(
    model: nn.Module, layers: Mapping[str, nn.Module], *, adapting: bool = False
) -> dict[str, Refusal]:
    """Why some of a model's :func:`convertible_layers` cannot be predicted, or adapted, as is."""
    holders: dict[int, list[str]] = {}  # of each parameter, by its identity
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            holders.setdefault(id(parameter), []).append(f"{name}.{key}".lstrip("."))
    found: dict[str, Refusal] = {}
    held, refuses = adapters(model), _adapting_refusal if adapting else _layer_refusal
    for group in groups_of_one_weight(layers):
        members: list[Any] = [layers[name] for name in group]
        own = {
            name: refusal
            for name, layer in zip(group, members, strict=True)
            if (
                refusal := adapter_refusal(name, held)
                or refuses(layer, is_base=bool(adapters_of(name, held)))
                or _tie_refusal(holders, _shared(layer), members)
            )
        }
        if own:  # together or not at all
            other, why = next(iter(own.items()))
            tied = predicate(f"is tied to {other!r}, which cannot be predicted: {why}")
            found |= dict.fromkeys(group, tied) | own
    return found


def other_refusals(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Refusal]:
    """Why modules that hold weights, and are none of these layers, stay as they are."""
    found: dict[str, Refusal] = {}
    inside: set[int] = set()
    held = adapters(model)
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if name in layers:
            inside.update(map(id, module.modules() if isinstance(module, PredictedLayer) else ()))
            continue
        if isinstance(module, AdaptedLayer):
            inside.update(map(id, module.modules()))
            found[name] = module_refusal(module)
            continue
        if name in held or is_own_part(name, held):
            if any(True for _ in module.parameters(recurse=False)):
                found[name] = OWN_PART
        elif isinstance(module, (PredictedLayer, parametrize.ParametrizationList)):
            inside.update(map(id, module.modules()))
            if isinstance(module, PredictedLayer):
                found[name] = predicate("is predicted already")
        elif isinstance(module, PredictedModule):
            inside.update(map(id, module.module.modules()))  # which lacks its weights
        elif split_module(module) is None and (
            any(True for _ in module.parameters(recurse=False))
            or is_quantised(module)
            or parametrize.is_parametrized(module)
        ):
            found[name] = module_refusal(module)
    return found


def module_refusal(module: nn.Module) -> Refusal:
    """Why a module that is none of the :func:`convertible_layers` stays as it is."""
    if isinstance(module, AdaptedLayer):
        return predicate("is adapted already", "call weightcast.merge or unadapt first")
    own = {name: p for name, p in module._parameters.items() if p is not None}
    if any(map(is_lazy, own.values())):
        lazy = "is lazy, its shape is not known yet"
        return predicate(lazy, "run the model once on example inputs first")
    if is_quantised(module):
        return predicate("is quantised", "convert or compress the model before quantising it")
    if parametrize.is_parametrized(module):
        return Refusal(
            "its weight is computed by a parametrisation (weight norm, spectral norm or the like)",
            "remove it first, torch.nn.utils.parametrize.remove_parametrizations",
        )
    if refusal := split_refusal(module):
        return refusal
    for kind in (*PREDICTED, *SPLIT):
        if isinstance(module, kind):
            return predicate(
                f"is a subclass of {kind.__name__}, and what it computes is not known",
                f"leave it dense, or put nn.{kind.__name__} in its place",
            )
    matrices = ", ".join(f"{name} {tuple(p.shape)}" for name, p in own.items() if p.dim() > 1)
    if not matrices:
        return predicate("holds no matrix")
    remedy = "it stays dense"
    if own.keys() <= {"weight", "bias"}:
        remedy += ", unless weightcast.register_layer says how"
    return predicate(f"uses {matrices} itself, in a way that is not known", remedy)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module's weights are held in a quantised form, parameters or not."""
    package = type(module).__module__
    if ".quantized" in package or package.split(".")[0] in ("bitsandbytes", "torchao"):
        return True
    if parametrize.is_parametrized(module):
        return False  # reading the weight would compute it, and move a spectral norm's estimate
    weight = getattr(module, "weight", None)
    if callable(weight) or not isinstance(weight, torch.Tensor):
        return False
    integers = weight.dtype in (torch.int8, torch.uint8) and not isinstance(module, nn.Embedding)
    return weight.is_quantized or integers


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called along with the module."""
    return any(getattr(module, f"_{kind}_hooks") for kind in _HOOKS)


def weight_refusal(layer: Any) -> Refusal | None:
    """Why the weight of one of the :func:`convertible_layers` cannot be read as a matrix."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return Refusal(
            "its weight is no plain parameter (weight norm, pruning or the like)",
            "remove that first, or leave the layer dense",
        )
    kind = type(weight)
    if is_torchaos(weight):
        return Refusal(
            f"its weight is quantised, torchao's {kind.__name__}",
            "convert or compress the model before quantising it, or read the weight back first: "
            "layer.weight = nn.Parameter(layer.weight.dequantize())",
        )
    if kind is not nn.Parameter:
        return Refusal(
            f"its weight is a {kind.__name__}, no plain parameter",
            "convert the model before quantising or sharding it",
        )
    if not weight.is_floating_point() or weight.element_size() < 2:
        return Refusal(f"its weight is {weight.dtype}, not floating point of 16 bits or more")
    if weight.numel() == 0:
        shape = tuple(weight.shape)
        return Refusal(f"its weight is {shape} and holds nothing", "leave the layer dense")
    return view(layer).refusal


def _layer_refusal(layer: Any, *, is_base: bool) -> Refusal | None:
    """Why a layer by itself cannot be predicted: what it is, or what would be lost with it.

    The base of an adapter is frozen by its nature, and V fitted to it may be frozen too.
    """
    if refusal := weight_refusal(layer):
        return refusal
    weight = layer.weight
    if not weight.requires_grad and not is_base:
        return predicate(
            "is frozen (requires_grad=False), and a frozen V would never be learned",
            "call requires_grad_(True) first and freeze V later, or leave the layer dense",
        )
    if has_hooks(layer):
        return predicate("has hooks, which a replaced layer would lose", "remove them first")
    if weight._backward_hooks or weight._post_accumulate_grad_hooks:
        return predicate("has hooks on its weight, which V would not have", "remove them first")
    if "forward" in vars(layer):
        return predicate(
            "has a forward of its own in place of its class's, and what it computes is not known",
            "delete that attribute first (accelerate: remove_hook_from_module), or leave the layer "
            "dense",
        )
    own = {*layer._parameters, *layer._buffers, *layer._modules} - {"weight", "bias"}
    if own:
        listed = ", ".join(map(repr, sorted(own)))
        return predicate(
            f"has {listed} beside its weight and bias, which a replaced layer would lose",
            "leave it dense, or hold that elsewhere",
        )
    return None


def _adapting_refusal(layer: Any, *, is_base: bool) -> Refusal | None:
    """Why nothing can be added to a frozen layer's output: its sizes are not known, or its sum."""
    if isinstance(layer, PredictedLayer):
        return view(layer).adapting_refusal
    weight = layer._parameters.get("weight")
    if is_torchaos(weight):
        if not weight.dtype.is_floating_point or not hasattr(weight, "dequantize"):
            kind = type(weight).__name__
            return Refusal(f"its weight is quantised, {kind}, and cannot be read back")
        return view(layer).adapting_refusal
    return weight_refusal(layer) or view(layer).adapting_refusal


def _shared(layer: Any) -> nn.Parameter:
    """The parameter that layers of one weight share: V, or the weight."""
    return layer.V if isinstance(layer, PredictedLayer) else layer.weight


def _tie_refusal(
    holders: Mapping[int, list[str]], weight: nn.Parameter, group: list[Any]
) -> Refusal | None:
    """Why the layers of one weight cannot be predicted together: the model holds it elsewhere."""
    names = holders[id(weight)]
    if len(names) > len(group):
        why = "and not all of these can be predicted"
    elif len({_layout(layer) for layer in group}) > 1:
        why = "and the units of these lie along different axes"
    else:
        return None
    return predicate(f"is tied ({' = '.join(names)}), {why}", "leave it dense, or untie them")


def _layout(layer: Any) -> tuple[Any, ...]:
    """How a layer's units lie in its weight."""
    seen = view(layer)
    rows = seen.filters(torch.empty(seen.weight.shape, device="meta"))
    return tuple(rows.shape), rows.stride()
