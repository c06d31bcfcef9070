"""convert: dense layers become predicted ones, with V drawn anew. merge: dense ones again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from weightcast.dictionaries import SharedBases
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import naming_layer
from weightcast.inputs.walk import Walk
from weightcast.layers import PredictedLayer, PredictedModule, view
from weightcast.layers.models import Model
from weightcast.layers.rule import Rule, layer_seed
from weightcast.plan.eligibility import convertible_layers, has_hooks
from weightcast.plan.plan import Plan
from weightcast.plan.trained import warn_if_trained
from weightcast.transform.swap import NOT_DENSE, swap


def convert(
    model: Model,
    plan: Plan | Mapping[str, Rule | None],
    inputs: Any = None,
    seed: int = 0,
    inplace: bool = False,
    warn_pretrained: bool = True,
) -> Model:
    """Replace the layers that the plan names by predicted ones, with V drawn anew.

    Biases and all other layers keep their values. Data-driven dictionaries are made layer by
    layer, in the order in which the model calls the layers: each from its inputs in the network
    whose lower layers are predicted already. Each block of the model then runs a few times over
    the inputs, however deep the model is (see :mod:`weightcast.inputs.walk`); without inputs or
    such dictionaries it does not run.

    Args:
        model: any module; a shared layer is converted once and stays shared.
        plan: a :class:`Plan`, or its rules.
        inputs: example batches for data-driven dictionaries: an iterable of tensors, of
            ``(input, target)`` pairs, or of mappings of keyword arguments; or one tensor. All
            batches are held in memory. Of an iterable without a length, which may be endless, the
            first 1,000 batches, or 4 GiB of them, are read, and a warning says if there are more.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        inplace: change ``model`` itself rather than a deep copy.
        warn_pretrained: warn once, by a :class:`PretrainedWarning`, where weights that look trained
            are about to be lost (:func:`compress` keeps them).

    Returns:
        The model with predicted layers.

    Raises:
        ValueError: what the plan or a dictionary cannot do, naming the layer; the model is then
            left as it was.
    """
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    rules = plan.resolve(model)
    layers = convertible_layers(model)
    _refuse_frozen({name: layers[name] for name in rules})
    if warn_pretrained:
        warn_if_trained({name: layers[name] for name in rules})
    batches = None if inputs is None else as_batches(inputs)
    bases = SharedBases()

    def make(name: str, layer: Any, current: nn.Module, twin: PredictedLayer | None) -> Any:
        rule, own_seed = rules[name], layer_seed(seed, name)
        if twin is not None:
            if walk is not None:
                walk.settle(name)
            return view(layer).predict(rule, atoms=twin.atoms)
        with naming_layer(name):
            statistics = None
            if walk is not None and name in walk.needs:
                statistics = walk.given(name, current).statistics()
                walk.settle(name)
            return view(layer).predict(rule, seed=own_seed, statistics=statistics, bases=bases)

    before, driven, after = _order(layers, rules)
    with ExitStack() as stack:
        walk = None
        if batches is not None and driven:
            needs = {name: rules[name].dictionary.needs for name in driven}
            walk = stack.enter_context(Walk(model, driven, batches, needs, seed))
            driven = walk.order + [name for name in driven if name not in walk.order]
        converted = swap(model, [*before, *driven, *after], make, inplace=inplace)
    for name in rules:
        layer: Any = converted.get_submodule(name)
        layer.clear_padding()  # V may have been drawn for its twin
    return converted


def merge(model: Model, inplace: bool = False) -> Model:
    """Replace every predicted layer by its dense counterpart, W = U V multiplied out.

    And every adapted one by W0 + U V, summed in double precision and rounded once to W0's dtype; a
    quantised W0 is read back for that. :func:`unadapt` gives W0 itself.

    Args:
        model: a model with predicted layers.
        inplace: change ``model`` itself rather than a deep copy.

    Returns:
        The model with the original classes and state-dict keys.

    Raises:
        ValueError: a predicted layer with hooks, which a replaced layer would lose; ``inplace``
            for a model that is itself one layer.
    """
    predicted = []
    for name, module in model.named_modules():
        if isinstance(module, (*NOT_DENSE, PredictedModule)) and has_hooks(module):
            raise ValueError(
                f"layer {name!r} has hooks, which a replaced layer would lose: remove them first"
            )
        if isinstance(module, NOT_DENSE) and name.rpartition(".")[0] not in predicted:
            predicted.append(name)
    return swap(model, predicted, lambda _, layer, *__: layer.to_dense(), inplace=inplace)


def _refuse_frozen(layers: Mapping[str, Any]) -> None:
    """Raise ValueError for frozen layers, which a plan allows beneath adapters only."""
    frozen = [name for name, layer in layers.items() if not layer.weight.requires_grad]
    if frozen:
        raise ValueError(
            f"{len(frozen)} layer(s), the first {frozen[0]!r}, are frozen beneath an adapter, and "
            "V drawn anew would never be learned: weightcast.compress keeps their weights; or call "
            "requires_grad_(True) on them first, or leave them dense"
        )


def _order(
    layers: Mapping[str, Any], rules: Mapping[str, Rule]
) -> tuple[list[str], list[str], list[str]]:
    """Layers that need no data; those that do; and those whose data cannot be seen.

    Of tied layers, V is drawn and the dictionary made for the first: one that multiplies inputs.
    """
    blind = [name for name in rules if view(layers[name]).blindness]
    driven = [name for name, rule in rules.items() if rule.dictionary.needs and name not in blind]
    independent = [name for name, rule in rules.items() if not rule.dictionary.needs]
    independent.sort(key=blind.__contains__)
    return independent, driven, [name for name in blind if name not in independent]
