"""Plans: which layer is predicted by which rule; read, explained and suggested."""

from weightcast.layers.rule import Rule
from weightcast.plan.decision import Explanation, PlanRow
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest

__all__ = ["Explanation", "Plan", "PlanRow", "Rule", "convertible_layers", "suggest"]
