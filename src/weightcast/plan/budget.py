"""Offers: what each layer could be predicted from, and at which cost; plans made of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, Site
from weightcast.dictionaries.families import Family
from weightcast.grid import Grid
from weightcast.inputs.moments import MOST_INPUTS
from weightcast.inputs.progress import Progress
from weightcast.inputs.walk import Walk
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule, layer_seed
from weightcast.least_squares import fit_columns, loss_curve
from weightcast.plan.allocate import FLOOR, Choice, Offer, share_out
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.plan import Plan
from weightcast.plan.sites import ProbeSite, find_sites, observe, suiting
from weightcast.serialization import plain

Count = Literal["learned", "stored"]

SAMPLE, SAMPLED = (16, 64), 2**17
"""Units whose losses stand for those of all, where each has atoms of its own: so many weights of
them, if these are as many units."""

KNOTS = (0.05, 0.125, 0.25, 0.5, 0.75)
"""Shares of a unit's weights at which these losses are counted."""

LEAST = 1e-6
"""Loss that counts as none."""

HOPELESS = 4.0
"""A dictionary that loses so many times what others lose at equal cost gets no more atoms."""


@dataclass(frozen=True)
class Offers:
    """What every layer of a model could be predicted from, and at which cost.

    They are made once (:func:`gather_offers`), and serve any budget.

    Args:
        model: dense.
        grids: every layer that may be predicted, with a grid where the layer itself knows none.
        sites: the same layers, as a plan weighs them.
        by_layer: the ways to predict each, and that to leave it dense.
        count: what costs count.
    """

    model: nn.Module
    grids: Mapping[str, Grid | None]
    sites: Mapping[str, ProbeSite]
    by_layer: Mapping[str, Sequence[Offer]]
    count: Count

    @property
    def least_share(self) -> float:
        """Share of all weights that a network stores (or learns) at least."""
        counts = ledger(self.model).total
        weights = sum(site.filters.numel() for site in self.sites.values())
        rest = (counts.stored if self.count == "stored" else counts.learned) - weights
        least = sum(int(min(o.costs()[0] for o in own)) for own in self.by_layer.values())
        return min(1.0, (rest + least) / counts.dense)

    def for_budget(self, budget: float | int) -> Plan:
        """The plan of least loss that a budget allows, as ``suggest`` describes it."""
        left = left_for(self.model, self.sites, budget, self.count)
        # What is trained from scratch makes up for what a layer lacks; what is compressed does not.
        floor = FLOOR if self.count == "stored" else 0.0
        plan = self._plan(share_out(self.by_layer, left, floor))
        if len(plan.rules) == 1:
            raise ValueError(
                f"the budget of {budget} leaves room for all weights: no layer needs to be "
                "predicted"
            )
        return plan

    def for_fraction(self, fraction: float) -> Plan:
        """The plan in which each layer learns a share, from what loses least and stores less."""
        chosen = {}
        for name, offers in self.by_layer.items():
            n_atoms = round(fraction * self.sites[name].n_visible)
            choices = [
                Choice(offer, min(n_atoms, len(offer.losses)))
                for offer in offers
                if offer.dictionary is not None and n_atoms
            ]
            dense = self.sites[name].filters.numel()
            small = [choice for choice in choices if choice.cost < dense]
            if small:
                chosen[name] = max(small, key=lambda choice: choice.worth)
        return self._plan(chosen)

    def _plan(self, chosen: Mapping[str, Choice]) -> Plan:
        rules: dict[str, Rule | None] = {}
        for name, choice in chosen.items():
            offer = choice.offer
            if offer.dictionary is not None:
                fraction = choice.n_atoms / self.sites[name].n_visible
                rules[name] = Rule(offer.dictionary, fraction, offer.columns, self.grids[name])
        return Plan({**rules, "*": None})


def gather_offers(
    model: nn.Module,
    grids: Mapping[str, Grid | None],
    walk: Walk | None,
    columns: int,
    *,
    count: Count,
    seed: int,
    progress: bool,
) -> Offers:
    """Count the loss of every layer's output for every dictionary and number of atoms.

    ``walk`` tells of their inputs, in a model that does not change; other arguments as for
    ``suggest``. The losses of one layer are counted at a time.
    """
    if count not in ("learned", "stored"):
        raise ValueError(f"count is {count!r}: take 'learned' or 'stored'")
    known = {name: grid for name, grid in grids.items() if grid is not None}
    sites, offers = find_sites(model, list(grids), known), {}
    every = convertible_layers(model)
    with Progress("suggesting", len(sites), show=progress) as shown:
        for name, site in sites.items():
            if walk is not None and name in walk.order:
                site = observe(model, site, walk)
            data, groups = site.statistics is not None, min(columns, site.n_units)
            if count == "learned":
                kinds = [suiting(every[name], grids[name], data=data).own]
            else:  # all that could be cheaper
                kinds = Family(site.grid, data).stored
            offers[name] = _offers(site, kinds, groups, count, layer_seed(seed, name))
            shown.step()
            shown.say(f"{name}: {len(offers[name]) - 1} dictionaries compared")
    return Offers(model, grids, sites, offers, count)


class TooMuchDenseError(ValueError):
    """More of a model stays dense than a plan is to leave, or all of it."""


def left_for(model: nn.Module, layers: Collection[str], budget: float | int, count: Count) -> int:
    """Numbers that are left for the layers to be predicted; TooMuchDenseError for none."""
    every: Any = convertible_layers(model)
    counts = ledger(model)
    total = counts.total.dense
    budget = plain(budget)
    is_number = isinstance(budget, (Integral, float)) and not isinstance(budget, bool)
    if not is_number or not 0 < budget < math.inf or (isinstance(budget, float) and budget >= 1):
        raise ValueError(
            f"budget is {budget!r}: give a share of all weights in (0, 1), or a whole number of 1 "
            "or more"
        )
    number = round(budget * total) if isinstance(budget, float) else int(budget)
    weights = sum(every[name].weight.numel() for name in layers)
    rest = (counts.total.stored if count == "stored" else counts.total.learned) - weights
    if rest >= number:
        others = [row for row in counts.rows if row.layer not in layers] or counts.rows[:1]
        dense = max(others, key=lambda row: row.dense)
        share = math.ceil(1e3 * rest / total) / 1e3
        raise TooMuchDenseError(
            f"budget {budget} is {number:,} of {total:,} weights, but {rest:,} stay dense (the "
            f"most in layer {dense.layer!r}, {dense.dense:,}): take a budget above "
            f"{share if isinstance(budget, float) else rest:,}"
        )
    return number - rest


def _offers(
    site: ProbeSite, kinds: Sequence[Dictionary], columns: int, count: Count, seed: int
) -> list[Offer]:
    """One offer per dictionary that can be built, and that to leave the layer dense, at full cost.

    Atoms that cost more than the dense layer are not looked at, nor those of dictionaries that
    fell far behind others.
    """
    offers = list[Offer]()
    for dictionary in kinds:
        if dictionary.per_unit:
            offers += _offers_per_unit(site, dictionary)
            continue
        if site.n_visible > MOST_INPUTS and not dictionary.from_weight:
            continue  # whose atoms, as many as inputs, would have to be compared with one another
        # Atoms that a file must hold are held once, for all units.
        held = count == "stored" and not dictionary.rebuildable
        groups = 1 if held else columns
        per_atom = site.n_units
        if count == "stored":
            per_atom += groups
        if held and not dictionary.factored:
            per_atom += site.n_visible
        most = site.filters.numel() // per_atom
        if dictionary.from_weight:  # a matrix has no more singular vectors
            most = min(most, site.n_units)
        n_atoms = min(site.n_visible - 1, max(1, most))
        (atoms,) = _build(site, dictionary, [n_atoms], seed)
        fixed = atoms.base.n_static if held and dictionary.factored else 0
        # Where a file names its atoms, those that explain most may be taken.
        order = None if count == "stored" else atoms.indices[0].tolist()
        costs = fixed + per_atom * torch.arange(1, n_atoms + 1).double()
        behind = HOPELESS * _least_loss(offers, costs)
        losses = loss_curve(atoms.base, site.W, n_atoms, site.metric, order, behind)
        offers.append(Offer(dictionary, groups, losses, per_atom, fixed))
    return [*offers, Offer(None, 1, torch.zeros(1, dtype=torch.float64), site.filters.numel())]


def _least_loss(offers: Sequence[Offer], costs: Tensor) -> Tensor:
    """The least loss that some offers have at each of some costs; 1 where none costs so little."""
    least = all_lost = torch.ones(len(costs), dtype=torch.float64)
    for offer in offers:
        n_atoms = torch.searchsorted(offer.costs(), costs, right=True)
        least = least.minimum(torch.cat([all_lost[:1], offer.losses])[n_atoms])
    return least


def _offers_per_unit(site: ProbeSite, dictionary: Dictionary) -> Iterator[Offer]:
    """Atoms of each unit's own: the losses of some units, at some numbers of atoms and between.

    Losses fall about as a power does, so that between two numbers their logarithms are on a line.
    """
    groups = 1 if site.metric is None else len(site.metric.moments)
    by_group = torch.arange(site.n_units).view(groups, -1)
    n_sampled = min(max(SAMPLED // site.n_visible, SAMPLE[0]), SAMPLE[1])
    step = -(-by_group.shape[1] * groups // n_sampled)
    some = replace(site, filters=site.filters[by_group[:, ::step].flatten()])
    counts = sorted({max(1, round(share * site.n_visible)) for share in KNOTS})
    losses = []
    for atoms in _build(some, dictionary, counts, 0):
        units = (slice(unit, unit + 1) for unit in range(some.n_units))
        losses.append(fit_columns(atoms, units, some.W, some.metric)[1])
    numbers = np.arange(1, site.n_visible)
    knots = [0, *counts, site.n_visible]
    levels = np.log([1.0, *(max(loss, LEAST) for loss in losses), LEAST])
    curve = torch.from_numpy(np.exp(np.interp(numbers, knots, levels)))
    # A file says which atoms a unit has by their numbers while these are few, then by a bit each.
    size, each = site.filters.element_size(), 1 if site.n_visible <= 256 else 2
    few = -(-site.n_visible // 8) // each
    if few:
        per_atom = site.n_units + -(-each * site.n_units // size)
        yield Offer(dictionary, 1, curve[:few], per_atom)
    mask = -(-site.n_units * -(-site.n_visible // 8) // size)
    yield Offer(dictionary, 1, curve, site.n_units, mask)


def _build(
    site: ProbeSite, dictionary: Dictionary, counts: Sequence[int], seed: int
) -> list[Atoms]:
    """The atoms at several numbers of them, of one column, or of every unit's own."""
    statistics = site.statistics
    if dictionary.from_weight:
        C = None if site.metric is None else site.metric.moments.mean(dim=0)
        statistics = InputStatistics(0, covariance=C)
    asked = Site(
        site.n_visible,
        counts[0],
        columns=site.n_units if dictionary.per_unit else 1,
        grid=site.grid,
        statistics=statistics,
        generator=torch.Generator().manual_seed(seed),
        weight=site.W.t(),
    )
    with torch.device("cpu"):  # whatever the default device is
        return dictionary.build_each(asked, counts)
