"""convert: dense layers to predicted ones. merge: back again."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from weightcast.dictionaries import SharedBases
from weightcast.layers import PREDICTED, PredictedLayer
from weightcast.plan import Plan, convertible_layers
from weightcast.rule import Rule
from weightcast.statistics import as_batches, collect_statistics, execution_order

SINGLE_LAYER = (
    "the model is itself a single layer, which inplace=True cannot replace: use inplace=False and "
    "the model that is returned"
)


def convert(
    model: nn.Module,
    plan: Plan | Mapping[str, Rule | None],
    inputs: Any = None,
    seed: int = 0,
    inplace: bool = False,
) -> nn.Module:
    """Replace the layers that the plan names by predicted ones, with V drawn anew.

    Biases and all other layers keep their values. Data-driven dictionaries are made layer by
    layer, in the order in which the model calls the layers: each from its inputs in the network
    whose lower layers are predicted already (method, section 2).

    Args:
        model: any module; a shared layer is converted once and stays shared.
        plan: a :class:`Plan`, or its rules.
        inputs: example batches for data-driven dictionaries: an iterable of tensors, of
            ``(input, target)`` pairs, or of mappings of keyword arguments; or one tensor.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        inplace: change ``model`` itself rather than a deep copy.

    Returns:
        The model with predicted layers.

    Raises:
        ValueError: what the plan or a dictionary cannot do, naming the layer; the model is then
            left as it was.
    """
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    rules = plan.resolve(model)
    check_layers(model, rules)
    batches = None if inputs is None else as_batches(inputs)
    if inplace and "" in rules:
        raise ValueError(SINGLE_LAYER)
    holder = nn.ModuleDict({"model": model if inplace else copy.deepcopy(model)})
    done: list[tuple[nn.Module, nn.Module]] = []
    bases = SharedBases()
    try:
        for name in _conversion_order(holder["model"], rules, batches):
            layer = holder["model"].get_submodule(name)
            predicted = _convert_layer(
                holder["model"], layer, name, rules[name], batches, seed, bases
            )
            done.append((layer, predicted))
            replace_module(holder, layer, predicted)
    except BaseException:
        for layer, predicted in reversed(done):
            replace_module(holder, predicted, layer)
        raise
    return holder["model"]


def merge(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Replace every predicted layer by its dense counterpart, W = U V multiplied out.

    Args:
        model: a model with predicted layers.
        inplace: change ``model`` itself rather than a deep copy.

    Returns:
        The model with the original classes and state-dict keys.

    Raises:
        ValueError: a predicted layer with hooks, which a replaced layer would lose; ``inplace``
            for a model that is itself one layer.
    """
    if inplace and isinstance(model, PredictedLayer):
        raise ValueError(SINGLE_LAYER)
    for name, layer in predicted_layers(model).items():
        _refuse_hooks(name, layer)
    holder = nn.ModuleDict({"model": model if inplace else copy.deepcopy(model)})
    for layer in [m for m in holder.modules() if isinstance(m, PredictedLayer)]:
        replace_module(holder, layer, layer.to_dense())
    return holder["model"]


def predicted_layers(model: nn.Module) -> dict[str, PredictedLayer]:
    """The predicted layers of a model, by their first name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PredictedLayer)}


def layer_seed(seed: int, name: str) -> int:
    """A seed for one layer that does not depend on which other layers are converted."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is a child below ``root``, so that shared layers stay shared."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _convert_layer(
    model: nn.Module,
    layer: nn.Module,
    name: str,
    rule: Rule,
    batches: list[Any] | None,
    seed: int,
    bases: SharedBases,
) -> PredictedLayer:
    """The predicted layer for one dense layer; errors name the layer."""
    seed = layer_seed(seed, name)
    try:
        statistics = None
        if rule.dictionary.needs and batches is not None:
            generator = torch.Generator().manual_seed(seed)
            statistics = collect_statistics(
                model, layer, batches, rule.dictionary.needs, generator=generator
            )
        return PREDICTED[type(layer)].from_dense(
            layer, rule, seed=seed, statistics=statistics, bases=bases
        )
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def _conversion_order(
    model: nn.Module, rules: Mapping[str, Rule], batches: list[Any] | None
) -> list[str]:
    """Layers that need no data first, then the others in the order in which the model runs them."""
    independent = [name for name, rule in rules.items() if not rule.dictionary.needs]
    driven = [name for name, rule in rules.items() if rule.dictionary.needs]
    if batches is not None and len(driven) > 1:
        order = list(
            execution_order(model, {n: model.get_submodule(n) for n in driven}, batches[0])
        )
        driven = order + [name for name in driven if name not in order]
    return independent + driven


def check_layers(model: nn.Module, rules: Mapping[str, Rule]) -> None:
    """Refuse layers whose replacement would silently change what the model does.

    Raises:
        ValueError: tied, missing or integer weights, or hooks, naming the layer.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(f"{name}.{key}".lstrip("."))
    layers = convertible_layers(model)
    for name in rules:
        layer: Any = layers[name]
        weight = layer._parameters.get("weight")
        if weight is None:
            raise ValueError(
                f"layer {name!r}: its weight is no plain parameter (weight norm, pruning or the "
                "like): remove that first, or leave the layer dense"
            )
        for parameter in layer.parameters():
            if len(owners[id(parameter)]) > 1:
                raise ValueError(
                    f"layer {name!r} is tied ({' = '.join(owners[id(parameter)])}), and cannot "
                    "stay so when predicted: leave these layers dense, or untie them"
                )
        if not weight.is_floating_point():
            raise ValueError(f"layer {name!r}: its weight is {weight.dtype}, not floating point")
        _refuse_hooks(name, layer)


def _refuse_hooks(name: str, layer: nn.Module) -> None:
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    if any(hooks):
        raise ValueError(
            f"layer {name!r} has hooks, which a replaced layer would lose: remove them first"
        )
