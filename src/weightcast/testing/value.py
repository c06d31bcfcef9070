"""What holds of a dictionary as a value: it is frozen, equals its like, and has a JSON form."""

from __future__ import annotations

from collections.abc import Callable

from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast.testing.checks import require
from weightcast.testing.trial import Trial


def _is_a_value(trial: Trial) -> None:
    kind = type(trial.dictionary)
    require(  # its own: a base class's fields are not all that tell it from others
        "__dataclass_params__" in vars(kind),
        f"{kind.__name__} is none: write @dataclass(frozen=True) above the class",
    )
    hash(trial.dictionary)
    require(trial.dictionary == trial.dictionary, "it does not equal itself")


def _survives_json(trial: Trial) -> None:
    plan = Plan({"0": Rule(trial.dictionary, 0.25, 2, trial.grid)})
    try:
        text = plan.to_json()
    except ValueError:
        return  # it holds what has no JSON form, such as a fitted estimator, and says so
    rule = Plan.from_json(text).rules["0"]
    assert rule is not None
    require(rule.dictionary == trial.dictionary, f"it comes back as {rule.dictionary!r}")


VALUE_CHECKS: dict[str, Callable[[Trial], None]] = {
    "it is a frozen dataclass": _is_a_value,
    "it survives a round trip through JSON": _survives_json,
}
"""What must hold before anything is built."""
