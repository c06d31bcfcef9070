"""Share a budget of numbers among layers: where the next one buys the most.

Every layer comes with offers: dictionaries with the loss that 1, 2, 3 ... atoms leave, and what
they cost. A network keeps about the product of what its layers keep, so that a layer which loses a
share of its output is worth log(1 - loss). With a price put on a number, each layer takes the offer
of most worth less its price; the price is lowered until the budget is spent (Everett 1963). A last
round spends what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightcast.dictionaries import Dictionary


@dataclass(frozen=True)
class Offer:
    """One way to predict a layer; without a dictionary it stays dense.

    Args:
        losses: (n,) share of the layer's output that is lost with 1, 2, ... n atoms.
        per_atom: numbers that each atom costs.
        fixed: numbers that the dictionary costs, however many atoms there are.
    """

    dictionary: Dictionary | None
    columns: int
    losses: Tensor
    per_atom: int
    fixed: int = 0

    def worth(self) -> Tensor:
        """(n,): log(1 - loss), at most 0."""
        return (1 - self.losses).clamp_min(1e-12).log()

    def costs(self) -> Tensor:
        """(n,): what 1, 2, ... n atoms cost."""
        counts = torch.arange(1, len(self.losses) + 1, dtype=torch.float64)
        return self.fixed + self.per_atom * counts


@dataclass(frozen=True)
class Choice:
    """What a layer took: an offer and a number of atoms."""

    offer: Offer
    n_atoms: int

    @property
    def cost(self) -> int:
        """Numbers it costs."""
        return self.offer.fixed + self.offer.per_atom * self.n_atoms

    @property
    def worth(self) -> float:
        """log(1 - loss), at most 0."""
        return float(self.offer.worth()[self.n_atoms - 1])


FLOOR = 0.9
"""Of the share that a layer would get if all got the same: it loses no more than that buys.

A layer's loss of output tells what is lost in that layer, and not what the network makes of it: the
errors of a budget that leaves some layers next to nothing add up as no layer's own loss says.
"""

LITTLE = 1e-4
"""This share of its output any layer may lose, whatever it would get."""


def share_out(
    offers: Mapping[str, Sequence[Offer]], budget: int, floor: float = FLOOR
) -> dict[str, Choice]:
    """The layers' choices that together are worth most and cost at most ``budget`` numbers.

    Raises ValueError where the cheapest offers cost more than that, naming the costliest layer.
    """
    cheapest = {name: _least(own, math.inf, 1.0) for name, own in offers.items()}
    least = sum(choice.cost for choice in cheapest.values())
    if least > budget:
        name = max(cheapest, key=lambda name: cheapest[name].cost)
        raise ValueError(
            f"{budget:,} numbers are left for {len(offers)} layers, and one atom in each costs "
            f"{least:,}, {cheapest[name].cost:,} of them in layer {name!r}: raise the budget by "
            f"{least - budget:,} numbers at least"
        )
    limits = _limits(offers, budget, floor)
    low, high = -40.0, 10.0  # logarithms of the price of a number
    chosen = cheapest
    for _ in range(60):
        middle = (low + high) / 2
        price = math.exp(middle)
        found = {name: _least(own, price, limits[name]) for name, own in offers.items()}
        if sum(choice.cost for choice in found.values()) > budget:
            low = middle
        else:
            high, chosen = middle, found
    return _spend(offers, chosen, budget)


def _limits(offers: Mapping[str, Sequence[Offer]], budget: int, floor: float) -> dict[str, float]:
    """What each layer loses at most; 1 for all where that would cost more than the budget.

    The dense layer's cost says how many weights it has.
    """
    weights = {
        name: max((offer.per_atom for offer in own if offer.dictionary is None), default=0)
        for name, own in offers.items()
    }
    share, limits = floor * budget / max(1, sum(weights.values())), {}
    for name, own in offers.items():
        bought = torch.cat([offer.losses[offer.costs() <= share * weights[name]] for offer in own])
        limits[name] = max(LITTLE, float(bought.min())) if len(bought) else 1.0
    least = sum(_least(own, math.inf, limits[name]).cost for name, own in offers.items())
    return limits if least <= budget else dict.fromkeys(offers, 1.0)


def _least(offers: Iterable[Offer], price: float, limit: float) -> Choice:
    """The choice of most worth less its price; of least cost where the price is infinite."""
    found = []
    for offer in offers:
        costs = offer.costs()
        total = costs if math.isinf(price) else price * costs - offer.worth()
        total = torch.where(offer.losses <= limit, total, torch.inf)
        place = int(total.argmin())
        found.append((float(total[place]), float(costs[place]), Choice(offer, place + 1)))
    return min(found, key=lambda one: one[:2])[2]


def _spend(
    offers: Mapping[str, Sequence[Offer]], chosen: Mapping[str, Choice], budget: int
) -> dict[str, Choice]:
    """Spend what is left, one step of most gain per number at a time."""
    result = dict(chosen)
    while True:
        left = budget - sum(choice.cost for choice in result.values())
        steps = [
            ((after.worth - now.worth) / (after.cost - now.cost), name, after)
            for name, now in result.items()
            for after in _steps(offers[name], now)
            if now.cost < after.cost <= now.cost + left and after.worth > now.worth
        ]
        if not steps:
            return result
        _, name, after = max(steps, key=lambda step: step[0])
        result[name] = after


def _steps(offers: Iterable[Offer], now: Choice) -> list[Choice]:
    """The next steps from a choice: one atom more, or the layer dense."""
    found = [Choice(offer, 1) for offer in offers if offer.dictionary is None]
    if now.n_atoms < len(now.offer.losses):
        found.append(Choice(now.offer, now.n_atoms + 1))
    return found
