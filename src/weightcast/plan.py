"""Plan: which layer is predicted by which rule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from weightcast.codec import decode, encode, nearest
from weightcast.layers import PREDICTED, PredictedLayer
from weightcast.rule import Rule

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Rules by layer name.

    A key is an exact module name, ``re:`` and a regular expression that matches the full name, or
    ``*``. An exact name beats a regular expression, which beats ``*``; a later regular expression
    beats an earlier one. ``None`` leaves a layer dense, as does no matching key.

    Args:
        rules: key to rule, or to None.

    Raises:
        ValueError: a value that is no rule, or an invalid regular expression.
    """

    rules: Mapping[str, Rule | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", dict(self.rules))
        for key, rule in self.rules.items():
            if rule is not None and not isinstance(rule, Rule):
                raise ValueError(f"rule {key!r} is {rule!r}: expected a weightcast.Rule or None")
            if key.startswith("re:"):
                try:
                    re.compile(key[3:])
                except re.error as error:
                    raise ValueError(f"rule {key!r}: invalid expression: {error}") from error

    def resolve(self, model: nn.Module) -> dict[str, Rule]:
        """The rule of every layer that is to be predicted, by the layer's first name.

        Raises:
            ValueError: a key that matches no layer which can be predicted, or one that is
                predicted already.
        """
        layers = convertible_layers(model)
        matches = {key: _matching(key, layers) for key in self.rules}
        for key, names in matches.items():
            if not names and not (key == "*" and self.rules[key] is None):
                raise ValueError(_no_match(key, self.rules[key], model, list(layers)))
        resolved: dict[str, Rule] = {}
        for name in layers:
            rule = next(
                (self.rules[key] for key in self._by_precedence() if name in matches[key]), None
            )
            if rule is not None:
                resolved[name] = rule
        self._refuse_predicted(model)
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """JSON data, with a version."""
        return {"version": VERSION, "rules": encode(self.rules)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read JSON data back; ``version`` may be left out.

        Raises:
            ValueError: another version, an unknown field (with the nearest valid one), a bad value.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"plan: expected a mapping with 'rules', got {data!r}")
        for key in data:
            if key not in ("version", "rules"):
                raise ValueError(f"plan: unknown field {key!r}{nearest(key, ('version', 'rules'))}")
        version = data.get("version", VERSION)
        if version != VERSION:
            raise ValueError(f"plan: version {version!r}, this weightcast reads version {VERSION}")
        rules = data.get("rules")
        if not isinstance(rules, Mapping):
            raise ValueError(f"plan: 'rules' must map layer names to rules, got {rules!r}")
        return cls(
            {
                str(key): None if rule is None else decode(Rule, rule, f"rule {str(key)!r}")
                for key, rule in rules.items()
            }
        )

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read JSON text back; raises ValueError as :meth:`from_dict` does."""
        return cls.from_dict(json.loads(text))

    def _by_precedence(self) -> list[str]:
        expressions = [key for key in self.rules if key.startswith("re:")]
        exact = [key for key in self.rules if not key.startswith("re:") and key != "*"]
        return [*exact, *reversed(expressions), *(["*"] if "*" in self.rules else [])]

    def _refuse_predicted(self, model: nn.Module) -> None:
        predicted = [n for n, m in model.named_modules() if isinstance(m, PredictedLayer)]
        for key in self._by_precedence():
            hit = _matching(key, dict.fromkeys(predicted))
            if self.rules[key] is not None and hit:
                raise ValueError(_predicted_already(key, hit))


def convertible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Dense layers that can be predicted, by their first name; subclasses are left alone."""
    return {name: module for name, module in model.named_modules() if type(module) in PREDICTED}


def _matching(key: str, layers: Mapping[str, Any]) -> list[str]:
    if key == "*":
        return list(layers)
    if key.startswith("re:"):
        return [name for name in layers if re.fullmatch(key[3:], name)]
    return [key] if key in layers else []


def _predicted_already(key: str, names: list[str]) -> str:
    """The message for a key that matches predicted layers."""
    return (
        f"rule {key!r} matches {', '.join(map(repr, names))}, predicted already: call "
        "weightcast.merge first, or name only dense layers"
    )


def _no_match(key: str, rule: Rule | None, model: nn.Module, known: list[str]) -> str:
    """The message for a key that matches no layer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    predicted = [n for n, m in modules.items() if isinstance(m, PredictedLayer)]
    hit = _matching(key, dict.fromkeys(predicted))
    if hit:
        return _predicted_already(key, hit)
    could = (
        f"; layers that can be predicted: {', '.join(map(repr, known))}"
        if known
        else (f"; the model has no layer of type {', '.join(c.__name__ for c in PREDICTED)}")
    )
    if key in modules:
        shared = next((n for n in known if modules[n] is modules[key]), None)
        if shared is not None:
            return f"rule {key!r}: this module is shared; name it by its first name {shared!r}"
        return (
            f"rule {key!r} names a {type(modules[key]).__name__}, which cannot be predicted{could}"
        )
    hint = nearest(key, known) if not key.startswith("re:") and key != "*" else ""
    return f"rule {key!r} matches no layer{hint if hint.startswith('; did') else ''}{could}"
