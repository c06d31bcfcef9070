"""convert: dense layers to predicted ones. merge: back again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from weightcast.dictionaries import SharedBases
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import collect_statistics
from weightcast.inputs.hooks import execution_order
from weightcast.layers import (
    PredictedLayer,
    PredictedModule,
    find_view,
    replace_module,
    split_class,
    split_modules,
    view,
)
from weightcast.layers.rule import Rule, layer_seed
from weightcast.plan.eligibility import copied, has_hooks
from weightcast.plan.plan import Plan

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
    batches = None if inputs is None else as_batches(inputs)
    if inplace and (find_view(model) or split_class(model)) and rules:
        raise ValueError(SINGLE_LAYER)
    holder = nn.ModuleDict({"model": model if inplace else copied(model)})
    done: list[tuple[nn.Module, nn.Module]] = []
    try:
        done += _split(holder, rules)
        for layer, predicted in _predict(holder, rules, batches, seed):
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
    if inplace and isinstance(model, (PredictedLayer, PredictedModule)):
        raise ValueError(SINGLE_LAYER)
    for name, module in model.named_modules():
        if isinstance(module, (PredictedLayer, PredictedModule)):
            _refuse_hooks(name, module)
    holder = nn.ModuleDict({"model": model if inplace else copied(model)})
    weights: dict[int, nn.Parameter] = {}  # of layers that share V
    for layer in [m for m in holder.modules() if isinstance(m, PredictedLayer)]:
        dense = layer.to_dense()
        dense.weight = weights.setdefault(id(layer.V), dense.weight)
        if layer.bias is not None:
            dense.bias = layer.bias  # itself, for it may be tied
        replace_module(holder, layer, dense)
    for module in [m for m in holder.modules() if isinstance(m, PredictedModule)]:
        replace_module(holder, module, module.join())
    return holder["model"]


def split_named(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Split the modules that layers of these names are weights of, in place.

    Args:
        model: dense.
        names: of layers that :func:`convertible_layers` lists.

    Returns:
        The model; another one only where it is itself such a module.
    """
    holder = nn.ModuleDict({"model": model})
    _split(holder, names)
    return holder["model"]


def _split(holder: nn.ModuleDict, names: Iterable[str]) -> list[tuple[nn.Module, nn.Module]]:
    wanted = {f"model.{name}" for name in names}
    return split_modules(
        holder, lambda name, split: any(f"{name}.{part}" in wanted for part in split.layers())
    )


def _predict(
    holder: nn.ModuleDict, rules: Mapping[str, Rule], batches: list[Any] | None, seed: int
) -> Iterator[tuple[nn.Module, PredictedLayer]]:
    """Dense layers and their predicted ones, which the caller puts in place before the next."""
    bases = SharedBases()
    made: dict[int, PredictedLayer] = {}  # by the dense weight, which several layers may share
    for name in _conversion_order(holder["model"], rules, batches):
        layer: Any = holder["model"].get_submodule(name)
        twin = made.get(id(layer.weight))
        if twin is None:
            predicted = _convert_layer(
                holder["model"], layer, name, rules[name], batches, seed, bases
            )
        else:
            predicted = view(layer).predict(rules[name], atoms=twin.atoms)
            predicted.tie(twin)
            predicted.clear_padding()  # V was drawn for the twin
        if predicted.bias is not None:
            predicted.bias = layer.bias  # itself, for it may be tied
        made[id(layer.weight)] = predicted
        yield layer, predicted


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
        if rule.dictionary.needs and batches is not None and not view(layer).blindness:
            generator = torch.Generator().manual_seed(seed)
            statistics = collect_statistics(
                model, name, batches, rule.dictionary.needs, generator=generator
            )
        return view(layer).predict(rule, seed=seed, statistics=statistics, bases=bases)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def _conversion_order(
    model: nn.Module, rules: Mapping[str, Rule], batches: list[Any] | None
) -> list[str]:
    """Layers that need no data first, then the others in the order in which the model runs them.

    Of tied layers those come first that multiply inputs: V is drawn, and its dictionary made, for
    these.
    """
    layers = {name: model.get_submodule(name) for name in rules}
    blind = [name for name, layer in layers.items() if view(layer).blindness]
    independent = [name for name, rule in rules.items() if not rule.dictionary.needs]
    driven = [name for name, rule in rules.items() if rule.dictionary.needs and name not in blind]
    if batches is not None and len(driven) > 1:
        order = list(execution_order(model, driven, batches[0]))
        driven = order + [name for name in driven if name not in order]
    independent.sort(key=blind.__contains__)
    return [*independent, *driven, *(name for name in blind if name not in independent)]


def _refuse_hooks(name: str, layer: nn.Module) -> None:
    if has_hooks(layer):
        raise ValueError(
            f"layer {name!r} has hooks, which a replaced layer would lose: remove them first"
        )
