"""Budgets are shared out as a search through all choices would, or nearly."""

from __future__ import annotations

import itertools

import pytest
import torch

from weightcast import dictionaries as d
from weightcast.kernels import SquaredExponential
from weightcast.least_squares import Metric, fit_columns, loss_curve
from weightcast.plan.allocate import Choice, Offer, share_out

DICTIONARY = d.DCT()


def _offer(losses, per_atom, fixed=0, dictionary: d.Dictionary | None = DICTIONARY) -> Offer:
    return Offer(dictionary, 1, torch.tensor(losses, dtype=torch.float64), per_atom, fixed)


def _layers(seed: int) -> dict[str, list[Offer]]:
    generator = torch.Generator().manual_seed(seed)

    def losses(n: int) -> list[float]:
        steps = torch.rand(n + 1, generator=generator, dtype=torch.float64).sort(descending=True)
        return (1 - steps.values.cumsum(0) / steps.values.sum())[:n].clamp(0, 1).tolist()

    return {
        "a": [_offer(losses(6), 10), _offer(losses(5), 7, 12)],
        "b": [_offer(losses(8), 3), _offer([0.0], 30, dictionary=None)],
        "c": [_offer(losses(4), 20)],
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [40, 65, 90, 150])
def test_no_choice_within_the_budget_is_much_better(seed, budget):
    offers = _layers(seed)
    chosen = share_out(offers, budget, floor=0.0)
    assert sum(choice.cost for choice in chosen.values()) <= budget
    ways = [
        [Choice(offer, n + 1) for offer in own for n in range(len(offer.losses))]
        for own in offers.values()
    ]
    best = max(
        sum(choice.worth for choice in way)
        for way in itertools.product(*ways)
        if sum(choice.cost for choice in way) <= budget
    )
    # Whole atoms do not fit a budget to the last number.
    assert sum(choice.worth for choice in chosen.values()) >= best - 0.35


def test_a_large_budget_buys_everything():
    chosen = share_out(_layers(0), 10_000)
    assert chosen["b"].offer.dictionary is None
    assert chosen["c"].n_atoms == 4


def test_a_layer_loses_no_more_than_its_floor_buys_or_next_to_nothing():
    """The second layer gains least by a number, and still gets what its share buys."""
    offers = {
        "a": [_offer([0.9, 0.5, 0.2, 0.05], 25), _offer([0.0], 100, dictionary=None)],
        "b": [_offer([0.5, 0.49, 0.48, 0.47], 25), _offer([0.0], 100, dictionary=None)],
        "c": [_offer([9e-5, 8e-5, 7e-5, 6e-5], 25), _offer([0.0], 100, dictionary=None)],
    }
    free, floored = (
        {name: choice.cost for name, choice in share_out(offers, 160, floor).items()}
        for floor in (0.0, 0.95)
    )
    assert (free["a"], free["b"]) == (100, 25)
    assert floored == {"a": 75, "b": 50, "c": 25}  # 0.95 of 160 / 3 buys b 50


def test_what_costs_less_than_the_floor_is_taken_where_it_loses_no_more():
    offers = {
        "a": [_offer([0.9, 0.5, 0.2, 0.05], 25), _offer([0.0], 100, dictionary=None)],
        "b": [_offer([0.5, 0.2], 25), _offer([0.1], 40), _offer([0.0], 100, dictionary=None)],
    }
    chosen = share_out(offers, 115, floor=0.8)  # 46 for each
    assert {name: choice.cost for name, choice in chosen.items()} == {"a": 75, "b": 40}


def test_too_small_a_budget_names_the_costliest_layer():
    with pytest.raises(ValueError, match=r"30 numbers are left for 3 layers, and one atom in each"):
        share_out(_layers(0), 30)
    with pytest.raises(ValueError, match=r"costs 33, 20 of them in layer 'c': raise .* 3 numbers"):
        share_out(_layers(0), 30)


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_the_curve_is_what_fitting_leaves(groups):
    generator = torch.Generator().manual_seed(2)
    W = torch.randn(6, 24, generator=generator, dtype=torch.float64)
    metric = None
    if groups:
        rows = torch.randn(groups, 60, 24, generator=generator, dtype=torch.float64)
        metric = Metric(rows.mT @ rows)
    atoms = d.DCT().atoms(24, 24, grid=(4, 6))
    order = atoms.indices[0].tolist()
    curve = loss_curve(atoms.base, W, 24, metric, order)
    for n in (1, 5, 23):
        some = d.Atoms(atoms.base, atoms.indices[:, :n])
        assert float(curve[n - 1]) == pytest.approx(fit_columns(some, [slice(0, 6)], W, metric)[1])
    assert float(curve[-1]) == pytest.approx(0, abs=1e-9)
    assert float(loss_curve(atoms.base, W, 5, metric)[4]) < float(curve[4])


def test_the_curve_ends_where_it_fell_too_far_behind():
    W = torch.randn(6, 200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    base = d.Kernel(SquaredExponential(2.0), mixing="raw").atoms(200, 150, grid=(200,)).base
    whole, most = loss_curve(base, W, 150), torch.ones(150)
    most[70:] = 0.5 * whole[70:]
    curve = loss_curve(base, W, 150, most=most)
    assert torch.equal(curve, whole[:96])  # three steps of 32: the third ends below
    assert torch.equal(loss_curve(base, W, 150, most=2 * whole), whole)
