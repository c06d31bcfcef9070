"""explain: what rules make of every module of a model, and why the others stay dense."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.utils import parametrize

from weightcast.dictionaries import count_atoms
from weightcast.layers import PredictedLayer, PredictedModule, split_module, view
from weightcast.layers.rule import Rule
from weightcast.plan.eligibility import (
    KINDS,
    convertible_layers,
    is_quantised,
    module_refusal,
    owners_of_parts,
    refusals,
    tied_layers,
)
from weightcast.serialization import nearest

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
            rule = row.rule
            says = "" if rule is None else f"{type(rule.dictionary).__name__} {rule.fraction:g}"
            lines.append((row.layer or "(the model)", row.kind, says or row.reason))
        widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
        return "\n".join(
            f"{name.ljust(widths[0])}  {kind.ljust(widths[1])}  {says}"
            for name, kind, says in lines
        )


def explain(rules: Rules, model: nn.Module) -> Explanation:
    """The rule of every layer, or why it has none.

    Args:
        rules: by key, as a plan has them.
        model: dense, or predicted in part.

    Raises:
        ValueError: a key that matches no layer which can be predicted, or one that is predicted
            already; an exact name of a layer that cannot be predicted as it is.
    """
    layers = convertible_layers(model)
    reasons = refusals(model, layers)
    _refuse_predicted(rules, model)
    choices = _choose(rules, model, layers, reasons)
    groups = {name: group for group in tied_layers(layers) for name in group}
    for group in tied_layers(layers):
        _settle(choices, group)
    for name in layers:
        _check_data(choices, name, [layers[other] for other in groups.get(name, [name])])
    parts = owners_of_parts(model, layers)
    rows = [
        PlanRow(
            name,
            _kind(model.get_submodule(parts[name]) if name in parts else layer),
            choices[name].rule,
            choices[name].reason,
        )
        for name, layer in layers.items()
    ]
    return Explanation((*rows, *_other_rows(model, layers)))


def _kind(module: nn.Module) -> str:
    return type(module.module if isinstance(module, PredictedModule) else module).__name__


@dataclass(frozen=True)
class _Choice:
    """The key that decides on a layer, if any, whether it is a name, and what it decides."""

    key: str
    exact: bool
    rule: Rule | None
    reason: str = ""

    def without_rule(self, name: str, reason: str) -> _Choice:
        """Dense after all; an error where the user named the layer."""
        if self.exact:
            separator = " " if reason.split()[0] in ("is", "has") else ": "
            raise ValueError(f"layer {name!r}{separator}{reason}")
        return replace(self, rule=None, reason=reason)


def _choose(
    rules: Rules, model: nn.Module, layers: Mapping[str, nn.Module], reasons: Mapping[str, str]
) -> dict[str, _Choice]:
    """Every layer's choice as far as it depends on that layer alone."""
    parts = owners_of_parts(model, layers)
    matches = {key: _matching(key, layers, parts) for key in rules}
    for key, names in matches.items():
        if not names and not (key == "*" and rules[key] is None):
            raise ValueError(_no_match(key, model, layers))
    choices = {}
    for name in layers:
        key = next((key for key in _by_precedence(rules, name) if name in matches[key]), None)
        if key is None:
            choices[name] = _Choice("", False, None, "no rule matches it")
            continue
        choice = _Choice(key, _is_name(key), rules[key])
        if choice.rule is None:
            choice = replace(choice, reason=f"rule {key!r} leaves it dense")
        elif name in reasons:
            choice = choice.without_rule(name, reasons[name])
        elif not choice.exact and (small := _too_small(choice.rule, layers[name])):
            choice = choice.without_rule(name, small)
        choices[name] = choice
    _refuse_idle(rules, matches, choices)
    return choices


def _too_small(rule: Rule, layer: nn.Module) -> str | None:
    """Why a layer has too few inputs or units for a rule, if so."""
    n_visible, n_units = view(layer).sizes
    if rule.columns > n_units:
        return f"has {n_units} units, and columns is {rule.columns}: every column needs a unit"
    try:
        count_atoms(rule.fraction, n_visible)
    except ValueError as error:
        return str(error)
    return None


def _refuse_idle(
    rules: Rules, matches: Mapping[str, list[str]], choices: Mapping[str, _Choice]
) -> None:
    """Raise ValueError for a rule that meets only layers which it cannot predict."""
    for key, rule in rules.items():
        met = {name: choices[name].reason for name in matches[key] if choices[name].key == key}
        if rule is not None and met and all(met.values()):
            listed = "; ".join(f"layer {name!r}: {reason}" for name, reason in met.items())
            raise ValueError(f"rule {key!r} matches no layer that can be predicted; {listed}")


def _settle(choices: dict[str, _Choice], group: list[str]) -> None:
    """One rule for layers of one weight, or none."""
    wanted = {name: choices[name] for name in group if choices[name].rule is not None}
    named = {name: choices[name] for name in group if choices[name].exact}
    if not wanted:
        return
    if any(choice.rule is not None for choice in named.values()):
        given = {choice.rule for choice in named.values()}
        if len(given) > 1:
            raise ValueError(
                f"layers {', '.join(map(repr, named))} have one weight, and the plan gives them "
                "different rules: name one of them only, or give all the same rule"
            )
        chosen = next(iter(named.values()))
        choices |= {name: replace(chosen, reason="") for name in group}
    elif len(wanted) < len(group) or len({choice.rule for choice in wanted.values()}) > 1:
        for name in wanted:
            other = next(other for other in group if choices[other] != choices[name])
            choices[name] = replace(
                choices[name],
                rule=None,
                reason=f"is tied to {other!r}, for which there is another rule, or none",
            )


def _check_data(choices: dict[str, _Choice], name: str, group: list[nn.Module]) -> None:
    """No dictionary made from data where none of the layers of one weight has inputs.

    One made from the weights does without, as SingularVectors: inputs would only tell it more.
    """
    rule = choices[name].rule
    if rule is None or not rule.dictionary.needs or rule.dictionary.from_weight:
        return
    reasons = [view(layer).blindness for layer in group]
    if all(reasons):
        choices[name] = choices[name].without_rule(
            name,
            f"{type(rule.dictionary).__name__} is made from a layer's inputs, and {reasons[0]}",
        )


def _other_rows(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[PlanRow]:
    """Modules that hold weights, and are no layer that could be predicted."""
    inside: set[int] = set()
    for name, module in model.named_modules():
        if name in layers or id(module) in inside:
            continue
        kind = type(module).__name__
        if isinstance(module, (PredictedLayer, parametrize.ParametrizationList)):
            inside.update(map(id, module.modules()))
            if isinstance(module, PredictedLayer):
                yield PlanRow(name, kind, None, "is predicted already")
        elif isinstance(module, PredictedModule):
            inside.update(map(id, module.module.modules()))  # which lacks its weights
        elif split_module(module) is not None:
            continue
        elif any(True for _ in module.parameters(recurse=False)) or (
            is_quantised(module) or parametrize.is_parametrized(module)
        ):
            yield PlanRow(name, kind, None, module_refusal(module))


def _is_name(key: str) -> bool:
    return not key.startswith("re:") and key != "*"


def _by_precedence(rules: Rules, name: str) -> list[str]:
    """Keys, the strongest for this layer first."""
    names = sorted(filter(_is_name, rules), key=lambda key: key != name)
    expressions = [key for key in rules if key.startswith("re:")]
    return [*names, *reversed(expressions), *(["*"] if "*" in rules else [])]


def _matching(key: str, layers: Mapping[str, nn.Module], parts: Mapping[str, str]) -> list[str]:
    """The layers that a key matches by their own name, or by that of the module they belong to."""
    if key == "*":
        return list(layers)
    if not key.startswith("re:"):
        return [name for name in layers if key in (name, parts.get(name))]
    names = {name: (name, parts.get(name, name)) for name in layers}
    return [n for n, both in names.items() if any(re.fullmatch(key[3:], one) for one in both)]


def _refuse_predicted(rules: Rules, model: nn.Module) -> None:
    """Raise ValueError where a rule matches layers that are predicted already."""
    predicted = {n: m for n, m in model.named_modules() if isinstance(m, PredictedLayer)}
    parts = owners_of_parts(model, predicted)
    for key, rule in rules.items():
        hit = _matching(key, predicted, parts)
        if hit and (rule is not None or (_is_name(key) and key in hit)):
            raise ValueError(
                f"rule {key!r} matches {', '.join(map(repr, hit))}, predicted already: call "
                "weightcast.merge first, or name only dense layers"
            )


def _no_match(key: str, model: nn.Module, layers: Mapping[str, nn.Module]) -> str:
    """The message for a key that matches no layer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    could = (
        f"; layers that can be predicted: {', '.join(map(repr, layers))}"
        if layers
        else f"; the model has no layer of type {', '.join(KINDS)}"
    )
    if key in modules:
        shared = next((n for n in layers if modules.get(n) is modules[key]), None)
        if shared is not None:
            return f"rule {key!r}: this module is shared; name it by its first name {shared!r}"
        kind, why = type(modules[key]).__name__, module_refusal(modules[key])
        why = why if why.startswith("its ") else f"it {why}"
        return f"rule {key!r} names a {kind}, which cannot be predicted: {why}{could}"
    hint = nearest(key, layers) if _is_name(key) else ""
    others = "" if layers else "".join(f"; {r.layer!r} {r.reason}" for r in _other_rows(model, {}))
    return f"rule {key!r} matches no layer{hint if hint.startswith('; did') else ''}{could}{others}"
