"""explain: what rules make of every module of a model, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from weightcast.layers import (
    PredictedModule,
    Refusal,
    predicted_layers,
    relative_refusal,
    view,
)
from weightcast.layers.rule import Rule
from weightcast.plan.adapters import is_adapter
from weightcast.plan.eligibility import (
    convertible_layers,
    groups_of_one_weight,
    kinds,
    module_refusal,
    other_refusals,
    owners_of_parts,
    predicate,
    refusals,
)
from weightcast.plan.keys import STAR, deciding_keys, did_you_mean, is_name, match
from weightcast.serialization import aligned

Rules = Mapping[str, Rule | None]


@dataclass(frozen=True)
class PlanRow:
    """What becomes of one module.

    Args:
        layer: its first name.
        kind: its class; that of the module which reads the weight, where that is no layer itself.
        rule: by which it is predicted, or None.
        reason: why it stays dense, or "" where it is predicted.
    """

    layer: str
    kind: str
    rule: Rule | None
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Rows of all modules that hold weights; printed as a table.

    Args:
        rows: one per module, those that can be predicted first.
    """

    rows: tuple[PlanRow, ...]

    @property
    def predicted(self) -> tuple[PlanRow, ...]:
        """The rows with a rule."""
        return tuple(row for row in self.rows if row.rule is not None)

    @property
    def dense(self) -> tuple[PlanRow, ...]:
        """The rows without, each with its reason."""
        return tuple(row for row in self.rows if row.rule is None)

    def __str__(self) -> str:
        lines = [("layer", "kind", "rule, or why it stays dense")]
        for row in self.rows:
            rule, says = row.rule, row.reason
            if rule is not None:
                size = f"{rule.n_atoms} atoms" if rule.fraction is None else f"{rule.fraction:g}"
                says = f"{type(rule.dictionary).__name__} {size}"
            lines.append((row.layer or "(the model)", row.kind, says))
        return aligned(lines, n_names=3)


def explain(rules: Rules, model: nn.Module, *, adapting: bool = False) -> Explanation:
    """The rule of every layer, or why it has none; raises ValueError as ``Plan.resolve`` does."""
    for rule in rules.values():
        if rule is not None:
            rule.check_use(adapting=adapting)
    if not adapting:
        _refuse_predicted(rules, model)
    layers = convertible_layers(model, predicted=adapting)
    owners = owners_of_parts(model, layers)
    matches = match(rules, layers, owners)
    for key, names in matches.items():
        if not names and not (key == STAR and rules[key] is None):
            raise ValueError(_no_match(key, model, layers))
    keys, refused = deciding_keys(matches), refusals(model, layers, adapting=adapting)
    decisions = {
        name: _decide(rules, keys.get(name), name, layer, refused.get(name))
        for name, layer in layers.items()
    }
    _refuse_idle(rules, matches, decisions)
    for group in groups_of_one_weight(layers):
        _settle(decisions, group)
        _check_data(decisions, group, layers)
    rows = []
    for name, layer in layers.items():
        owner = model.get_submodule(owners[name]) if name in owners else layer
        owner = layer if is_adapter(owner) else owner
        kind = type(owner.module if isinstance(owner, PredictedModule) else owner).__name__
        decision = decisions[name]
        rows.append(PlanRow(name, kind, decision.rule, str(decision.refusal or "")))
    for name, refusal in other_refusals(model, layers).items():
        rows.append(PlanRow(name, type(model.get_submodule(name)).__name__, None, str(refusal)))
    return Explanation(tuple(rows))


@dataclass(frozen=True)
class _Decision:
    """The key that decides on a layer, if any; the rule it gives, or why it gives none."""

    key: str | None
    rule: Rule | None
    refusal: Refusal | None = None

    @property
    def exact(self) -> bool:
        """Whether the user named the layer, or the module it is a weight of."""
        return self.key is not None and is_name(self.key)

    def without_rule(self, name: str, refusal: Refusal) -> _Decision:
        """Dense after all; an error where the user named the layer."""
        if self.exact:
            raise ValueError(refusal.about(f"layer {name!r}"))
        return replace(self, rule=None, refusal=refusal)


def _decide(
    rules: Rules, key: str | None, name: str, layer: nn.Module, refusal: Refusal | None
) -> _Decision:
    """One layer's decision as far as it depends on that layer alone."""
    if key is None:
        return _Decision(None, None, Refusal("no rule matches it"))
    rule = rules[key]
    if rule is None:
        return _Decision(key, None, Refusal(f"rule {key!r} leaves it dense"))
    decision = _Decision(key, rule)
    if refusal is None and not decision.exact:
        refusal = _unfit(rule, layer)
    return decision if refusal is None else decision.without_rule(name, refusal)


def _unfit(rule: Rule, layer: nn.Module) -> Refusal | None:
    """Why a layer has too few inputs or units for a rule, or no W0 to be relative to, if so."""
    if rule.relative and (refusal := relative_refusal(layer)):
        return refusal
    n_visible, n_units = view(layer).sizes
    if rule.columns_for(n_units) > n_units:
        few = f"has {n_units} units, and columns is {rule.columns}"
        return predicate(few, "every column needs a unit")
    try:
        rule.atoms_for(n_visible)
    except ValueError as error:
        return Refusal(str(error))
    return None


def _refuse_idle(
    rules: Rules, matches: Mapping[str, list[str]], decisions: Mapping[str, _Decision]
) -> None:
    """Raise ValueError for a rule that meets only layers which it cannot predict."""
    for key, rule in rules.items():
        met = {n: decisions[n].refusal for n in matches[key] if decisions[n].key == key}
        if rule is not None and met and all(met.values()):
            listed = "; ".join(f"layer {name!r}: {refusal}" for name, refusal in met.items())
            raise ValueError(f"rule {key!r} matches no layer that can be predicted; {listed}")


def _settle(decisions: dict[str, _Decision], group: list[str]) -> None:
    """One rule for layers of one weight, or none."""
    rules = {name: decisions[name].rule for name in group}
    named = [name for name in group if decisions[name].exact]
    if any(rules[name] is not None for name in named):
        if len({rules[name] for name in named}) > 1:
            raise ValueError(
                f"layers {', '.join(map(repr, named))} have one weight, and the plan gives them "
                "different rules: name one of them only, or give all the same rule"
            )
        decisions |= dict.fromkeys(group, decisions[named[0]])
    elif len(set(rules.values())) > 1:
        for name in group:
            if rules[name] is not None:
                other = next(other for other in group if rules[other] != rules[name])
                tied = predicate(f"is tied to {other!r}, for which there is another rule, or none")
                decisions[name] = replace(decisions[name], rule=None, refusal=tied)


def _check_data(
    decisions: dict[str, _Decision], group: list[str], layers: Mapping[str, nn.Module]
) -> None:
    """Refuse a dictionary made from data where no layer of one weight has inputs that can be seen.

    One made from the weights, as SingularVectors, does without.
    """
    rule = decisions[group[0]].rule  # that of them all
    if rule is None or not rule.dictionary.needs or rule.dictionary.from_weight:
        return
    blind = [view(layers[name]).blindness for name in group]
    if all(blind):
        kind = type(rule.dictionary).__name__
        refusal = Refusal(f"{kind} is made from a layer's inputs, and {blind[0]}")
        for name in group:
            decisions[name] = decisions[name].without_rule(name, refusal)


def _refuse_predicted(rules: Rules, model: nn.Module) -> None:
    """Raise ValueError where a rule matches layers that are predicted already."""
    predicted = predicted_layers(model)
    for key, hit in match(rules, predicted, owners_of_parts(model, predicted)).items():
        if hit and (rules[key] is not None or (is_name(key) and key in hit)):
            raise ValueError(
                f"rule {key!r} matches {', '.join(map(repr, hit))}, predicted already: call "
                "weightcast.merge first, or name only dense layers"
            )


def _no_match(key: str, model: nn.Module, layers: Mapping[str, nn.Module]) -> str:
    """The message for a key that matches no layer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    could = f"; layers that can be predicted: {', '.join(map(repr, layers))}"
    if not layers:
        could = f"; the model has no layer of type {', '.join(kinds())}"
    if key in modules:
        shared = next((n for n in layers if modules.get(n) is modules[key]), None)
        if shared is not None:
            return f"rule {key!r}: this module is shared; name it by its first name {shared!r}"
        kind, why = type(modules[key]).__name__, module_refusal(modules[key])
        why = other_refusals(model, layers).get(key, why)
        subject = "it " if why.predicate else ""
        return f"rule {key!r} names a {kind}, which cannot be predicted: {subject}{why}{could}"
    others = {} if layers else other_refusals(model, layers)
    listed = "".join(f"; {refusal.about(repr(name))}" for name, refusal in others.items())
    return f"rule {key!r} matches no layer{did_you_mean(key, layers)}{could}{listed}"
