"""What holds of a dictionary as a value: it is frozen, equals its like, and has a JSON form."""

from __future__ import annotations

from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast.testing.require import require
from weightcast.testing.tried import Checks, TriedDictionary


def _is_a_value(tried: TriedDictionary) -> None:
    kind = type(tried.dictionary)
    require(  # of its own: a dataclass as base is not enough
        "__dataclass_params__" in vars(kind),
        f"{kind.__name__} is none: write @dataclass(frozen=True) above the class",
    )
    hash(tried.dictionary)
    require(tried.dictionary == tried.dictionary, "it does not equal itself")


def _survives_json(tried: TriedDictionary) -> None:
    plan = Plan({"0": Rule(tried.dictionary, 0.25, 2, tried.grid)})
    try:
        text = plan.to_json()
    except ValueError:
        return  # it holds what has no JSON form, such as a fitted estimator, and says so
    rule = Plan.from_json(text).rules["0"]
    assert rule is not None
    require(rule.dictionary == tried.dictionary, f"it comes back as {rule.dictionary!r}")


VALUE_CHECKS: Checks = {
    "it is a frozen dataclass": _is_a_value,
    "it survives a round trip through JSON": _survives_json,
}
"""What must hold before anything is built."""
