"""Plan: which layer is predicted by which rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from weightcast.layers.rule import Rule
from weightcast.plan.decision import Explanation, explain
from weightcast.plan.keys import check_key
from weightcast.serialization import decode, encode, nearest

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Rules by layer name.

    A key is an exact module name, ``re:`` and a regular expression that matches the full name, or
    ``*``. An exact name beats an expression, which beats ``*``; a later expression beats an earlier
    one. ``None`` leaves a layer dense, as does no matching key.

    Args:
        rules: key to rule, or to None.

    Raises:
        ValueError: no mapping, a key that is no text, a value that is no rule, or an invalid
            regular expression.
    """

    rules: Mapping[str, Rule | None]

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Mapping):
            remedy = "give rules by layer name, such as {'*': rule}"
            raise ValueError(f"a plan is {self.rules!r}: {remedy}")
        object.__setattr__(self, "rules", dict(self.rules))
        for key, rule in self.rules.items():
            check_key(key)
            if rule is not None and not isinstance(rule, Rule):
                raise ValueError(f"rule {key!r} is {rule!r}: expected a weightcast.Rule or None")

    def resolve(self, model: nn.Module, *, adapting: bool = False) -> dict[str, Rule]:
        """The rule of every layer that is to be predicted, by the layer's first name.

        A key that names a module which reads its weights itself, such as an ``nn.LSTM``, stands for
        all of its weights. A layer that cannot be predicted as it is (see :meth:`explain`), or is
        too small for the rule, is an error where its exact name is a key, and is left dense where
        an expression or ``*`` meets it beside others. Layers with one weight are predicted
        together: an exact name takes those that are tied to it along, and an expression or ``*``
        predicts all of them or none. With ``adapting`` it is the layers that :func:`adapt` adds to:
        frozen, quantised and predicted ones too.

        Raises:
            ValueError: a key that matches no layer which can be predicted, or one that is
                predicted already; an exact name of a layer that cannot be predicted as it is.
        """
        rows = self.explain(model, adapting=adapting).rows
        return {row.layer: row.rule for row in rows if row.rule is not None}

    def explain(self, model: nn.Module, *, adapting: bool = False) -> Explanation:
        """What becomes of every module that holds weights: the rule, or why it stays dense.

        The model is dense, or predicted in part. Raises ValueError as :meth:`resolve` does.
        """
        return explain(self.rules, model, adapting=adapting)

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
        read = {
            str(key): None if rule is None else decode(Rule, rule, f"rule {str(key)!r}")
            for key, rule in rules.items()
        }
        return cls(read)

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read JSON text back; raises ValueError as :meth:`from_dict` does."""
        return cls.from_dict(json.loads(text))
