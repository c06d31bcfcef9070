"""adapt: what others trained stays frozen, and W0 + U V learns V alone. unadapt: W0 again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from weightcast.dictionaries import SharedBases
from weightcast.dictionaries.constants import named_constants
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import Given, naming_layer
from weightcast.inputs.walk import Walk
from weightcast.layers import AdaptedLayer, PredictedLayer, adapted_layers, view
from weightcast.layers.adapted import free as let_learn
from weightcast.layers.models import Model, check_values
from weightcast.layers.rule import Rule, layer_seed
from weightcast.optim import row_norm
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.plan import Plan
from weightcast.serialization import nearest
from weightcast.transform.swap import swap

Free = Literal["bias", "norm"]
"""What may learn beside V: biases of all layers; scales and biases of normalisations."""


def adapt(
    model: Model,
    plan: Plan | Mapping[str, Rule | None],
    inputs: Any = None,
    seed: int = 0,
    *,
    heads: Iterable[str] = (),
    free: Collection[Free] = (),
    dtype: torch.dtype | None = None,
) -> Model:
    """Freeze a trained model, and add U V to the layers that the plan names, with V = 0.

    A rule that is ``relative`` makes W0 (1 + U V) of W0 instead, entry by entry. Outputs are at
    first the given model's to the last bit. All else is frozen but ``heads`` and what ``free``
    names. Layers may be frozen, in few bits, quantised or predicted already. W0 is the given
    model's own memory: train a copy of that model, if you go on with it too.

    Cost: dictionaries made from data take one pass of the model over the inputs; n_visible^2
    numbers are held for each layer of a block at a time, and n_visible^3 multiply-adds made for
    the leading directions of a layer. Layers of one input and one rule share their atoms.

    Args:
        model: any module; it is left as it is.
        plan: a :class:`Plan`, or its rules; such as ``Rule(PCA(whiten=True), n_atoms=8,
            columns=32)``.
        inputs: example batches as for :func:`convert`; with them :func:`parameter_groups` knows by
            how much each V moves its layer's output.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        heads: names of modules that learn all of their weights; no rule but their exact name's
            applies to them.
        free: ``bias`` and ``norm``: parameters that learn too.
        dtype: of V and U; None takes W0's, or float32 where that has fewer bits.

    Returns:
        A new model whose V and freed parameters alone take gradients.

    Raises:
        ValueError: a plan that adds nothing, what a layer or dictionary cannot do, naming the
            layer, or inputs on which the model fails.
    """
    check_values(model)
    _refuse_adapted(model)
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    heads = _heads(model, heads)
    rules = {
        name: rule
        for name, rule in plan.resolve(model, adapting=True).items()
        if name in plan.rules or not f"{name}.".startswith(tuple(f"{h}." for h in heads))
    }
    if not rules:
        raise ValueError(
            "the plan adds to no layer, and nothing would learn but heads: give it a rule, such as "
            "{'*': Rule(PCA(whiten=True), n_atoms=8, columns=32)}"
        )
    layers = convertible_layers(model, predicted=True)
    shared = stand_ins(model, _freed(model, heads, free))
    frozen = {id(p) for p in shared.values() if not p.requires_grad}
    for name in rules:
        if id(shared[id(learned_in(layers[name]))]) not in frozen:
            raise ValueError(f"layer {name!r} is a head, or tied to one, and named in the plan too")
    with ExitStack() as stack:
        walk, needs = None, {} if inputs is None else _needs(rules, layers)
        if needs:
            walk = stack.enter_context(
                Walk(model, list(needs), as_batches(inputs), needs, seed, refresh="never")
            )
        order = [] if walk is None else [name for name in walk.order if name in rules]
        order += [name for name in rules if name not in order]
        return swap(model, order, _Adds(rules, walk, model, seed, dtype).make, shared=shared)


def unadapt(model: Model) -> Model:
    """Take what was adapted off: a model with the frozen layers themselves, W0 to the last bit.

    Heads, biases and norms that were freed stay as they are, and so does the given model.

    Args:
        model: with adapted layers, or none.
    """
    return swap(
        model, adapted_layers(model), lambda _, layer, *__: layer.frozen, shared=stand_ins(model)
    )


def stand_ins(model: nn.Module, freed: Collection[int] | None = None) -> dict[int, Any]:
    """What stands in a copy for a model's parameters, by identity: the same memory, frozen.

    Of those that are ``freed``, by identity too, it is a copy that learns; with None what is frozen
    stays itself, and what learns is copied. Constants are shared.
    """
    kept: dict[int, Any] = {id(constant): constant for _, constant in named_constants(model)}
    for p in model.parameters():
        if freed is None:
            kept |= {} if p.requires_grad else {id(p): p}
        else:
            kept[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
            if id(p) in freed:
                let_learn(kept[id(p)])
    return kept


def learned_in(layer: Any) -> nn.Parameter:
    """The parameter that W0 is, or is computed from."""
    return layer.V if isinstance(layer, PredictedLayer) else layer.weight


class _Adds:
    """Makes layer after layer, each from what the dense model gives it."""

    def __init__(
        self,
        rules: Mapping[str, Rule],
        walk: Walk | None,
        model: nn.Module,
        seed: int,
        dtype: torch.dtype | None,
    ) -> None:
        self.rules, self.walk, self.model = rules, walk, model
        self.seed, self.dtype, self.bases = seed, dtype, SharedBases()
        self._last: tuple[Given | None, Rule, PredictedLayer] | None = None

    def make(
        self, name: str, layer: Any, current: nn.Module, twin: AdaptedLayer | None
    ) -> AdaptedLayer:
        """The layer and its delta; a twin's V and atoms become the twin's own."""
        rule, seen = self.rules[name], view(layer)
        delta_dtype = self.dtype or torch.promote_types(seen.weight.dtype, torch.float32)
        with naming_layer(name):
            if twin is not None:
                delta = seen.predict(rule, atoms=twin.delta.atoms, delta=delta_dtype)
                return AdaptedLayer(layer, delta, twin.gain)
            given = None
            if self.walk is not None and name in self.walk.needs:
                given = self.walk.given(name, self.model)
                self.walk.settle(name)
            if self._last is not None and given is not None and self._last[:2] == (given, rule):
                first = self._last[2]  # of the same inputs: queries, keys and values
                delta = seen.predict(rule, atoms=first.atoms, delta=delta_dtype)
                delta.share_atoms(first)
                return AdaptedLayer(layer, delta, self._gain)
            statistics = None if given is None else given.statistics()
            delta = seen.predict(
                rule, seed=layer_seed(self.seed, name), statistics=statistics, bases=self.bases,
                delta=delta_dtype,
            )  # fmt: skip
            if rule.relative:  # U multiplies no inputs: it is its entries that count
                self._gain = float(row_norm(delta)) / len(delta.V) ** 0.5
            else:
                covariance = None if statistics is None else statistics.covariance
                self._gain = seen.gain(delta.atoms, covariance)
            if rule.dictionary.needs and not rule.dictionary.from_weight:
                self._last = given, rule, delta
            return AdaptedLayer(layer, delta, self._gain)


def _needs(rules: Mapping[str, Rule], layers: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What is to be known of layers' inputs: for dictionaries, and for the rates of what adds."""
    scale = {name: () if rule.relative else ("covariance",) for name, rule in rules.items()}
    needs = {name: (*scale[name], *rule.dictionary.needs) for name, rule in rules.items()}
    return {n: what for n, what in needs.items() if what and not view(layers[n]).blindness}


def _refuse_adapted(model: nn.Module) -> None:
    for name in adapted_layers(model):
        raise ValueError(
            f"layer {name!r} is adapted already: call weightcast.merge or unadapt first, or train "
            "the adapter that is there"
        )


def _heads(model: nn.Module, heads: Iterable[str]) -> list[str]:
    """Names of modules that hold parameters."""
    heads = [heads] if isinstance(heads, str) else list(heads)
    modules = dict(model.named_modules())
    for name in heads:
        if name not in modules or not any(True for _ in modules[name].parameters()):
            raise ValueError(f"no module {name!r} can be a head{nearest(name, modules)}")
    return heads


def _freed(model: nn.Module, heads: Iterable[str], free: Collection[str]) -> set[int]:
    """Identities of the parameters that learn beside V; ValueError for what cannot."""
    if odd := [word for word in free if word not in ("bias", "norm")]:
        raise ValueError(f"free is {odd[0]!r}: take 'bias', 'norm', or both as a list")
    freed = {id(p) for head in heads for p in model.get_submodule(head).parameters()}
    for module in model.modules():
        norm = "norm" in free and "norm" in type(module).__name__.lower()
        for key, p in module.named_parameters(recurse=False):
            if norm or ("bias" in free and key.startswith("bias")):
                freed.add(id(p))
    for name, p in model.named_parameters():
        if id(p) in freed and not p.is_floating_point():
            raise ValueError(f"{name!r} is {p.dtype}, which cannot learn: leave it out of heads")
    return freed
