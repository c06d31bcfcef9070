"""A plan for a budget: what each layer could be predicted from, and at which cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics
from weightcast.dictionaries.families import Family
from weightcast.grid import Grid
from weightcast.inputs.gather import MOMENTS
from weightcast.inputs.progress import Progress
from weightcast.inputs.survey import Survey
from weightcast.inputs.walk import Walk
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule, layer_seed
from weightcast.least_squares import loss_curve
from weightcast.plan.allocate import Offer, share_out
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.plan import Plan
from weightcast.plan.sites import ProbeSite, find_sites, observe

Count = Literal["learned", "stored"]


def plan_for_budget(
    model: nn.Module,
    grids: Mapping[str, Grid | None],
    budget: float | int,
    batches: list[Any] | None,
    columns: int,
    *,
    surveyed: Survey | None,
    count: Count,
    seed: int,
    progress: bool,
) -> Plan:
    """The plan of least loss that a budget allows; arguments as for ``suggest``.

    ``surveyed`` is what a run over the batches told of the layers that multiply inputs.
    ``grids`` has every layer that may be predicted, with a grid where the layer itself knows none.
    """
    if count not in ("learned", "stored"):
        raise ValueError(f"count is {count!r}: take 'learned' or 'stored'")
    known = {name: grid for name, grid in grids.items() if grid is not None}
    sites = find_sites(model, list(grids), known)
    left = _left_for(model, sites, budget, count)
    offers = {}
    with Progress("suggesting", len(sites), show=progress) as shown, ExitStack() as stack:
        walk = None
        if batches is not None:
            names = dict.fromkeys(convertible_layers(model), (MOMENTS, "covariance"))
            walk = stack.enter_context(
                Walk(
                    model, sites, batches, names, seed,
                    found=surveyed, refresh="never", say=shown.say,
                )
            )  # fmt: skip
        for name, site in sites.items():
            if walk is not None and name in walk.order:
                site = observe(model, site, walk)
            groups, own_seed = min(columns, site.n_units), layer_seed(seed, name)
            offers[name] = list(_offers(site, groups, count, left, own_seed))
            shown.step()
            shown.say(f"{name}: {len(offers[name]) - 1} dictionaries compared")
    rules: dict[str, Rule | None] = {}
    for name, choice in share_out(offers, left).items():
        offer = choice.offer
        if offer.dictionary is not None:
            fraction = choice.n_atoms / sites[name].n_visible
            rules[name] = Rule(offer.dictionary, fraction, offer.columns, grids[name])
    if not rules:
        raise ValueError(
            f"the budget of {budget} leaves room for all weights: no layer needs to be predicted"
        )
    return Plan({**rules, "*": None})


class TooMuchDenseError(ValueError):
    """More of a model stays dense than a plan is to leave, or all of it."""


def _left_for(
    model: nn.Module, sites: Mapping[str, ProbeSite], budget: float | int, count: Count
) -> int:
    """Numbers that are left for the layers to be predicted; TooMuchDenseError for none."""
    counts = ledger(model)
    total = counts.total.dense
    is_number = isinstance(budget, (Integral, float)) and not isinstance(budget, bool)
    if not is_number or not 0 < budget < math.inf or (isinstance(budget, float) and budget >= 1):
        raise ValueError(
            f"budget is {budget!r}: give a share of all weights in (0, 1), or a whole number of 1 "
            "or more"
        )
    number = round(budget * total) if isinstance(budget, float) else int(budget)
    weights = sum(site.filters.numel() for site in sites.values())
    rest = (counts.total.stored if count == "stored" else counts.total.learned) - weights
    if rest >= number:
        others = [row for row in counts.rows if row.layer not in sites] or counts.rows[:1]
        dense = max(others, key=lambda row: row.dense)
        share = math.ceil(1e3 * rest / total) / 1e3
        raise TooMuchDenseError(
            f"budget {budget} is {number:,} of {total:,} weights, but {rest:,} stay dense (the "
            f"most in layer {dense.layer!r}, {dense.dense:,}): take a budget above "
            f"{share if isinstance(budget, float) else rest:,}"
        )
    return number - rest


def _offers(site: ProbeSite, columns: int, count: Count, left: int, seed: int) -> Iterator[Offer]:
    """One offer per dictionary that can be built, and that to leave the layer dense, at full cost.

    ``left`` is the whole budget: more atoms than it pays for need not be looked at.
    """
    # The family's own; where everything stored counts, all that could be cheaper too.
    family = Family(site.grid, site.statistics is not None)
    for dictionary in [family.own] if count == "learned" else family.stored:
        # Atoms that a file must hold are held once, for all units.
        held = count == "stored" and not dictionary.rebuildable
        groups = 1 if held else columns
        per_atom = site.n_units
        if count == "stored":
            per_atom += groups
        if held and not dictionary.factored:
            per_atom += site.n_visible
        # Nor more than there is to gain by, nor than a matrix of W's size has singular vectors.
        most = min(left, site.filters.numel()) // per_atom
        if dictionary.from_weight:
            most = min(most, site.n_units)
        n_atoms = min(site.n_visible - 1, max(1, most))
        atoms = _build(site, dictionary, n_atoms, seed)
        fixed = atoms.base.n_static if held and dictionary.factored else 0
        # Where a file names its atoms, those that explain most may be taken.
        order = None if count == "stored" else atoms.indices[0].tolist()
        losses = loss_curve(atoms.base, site.W, atoms.n_atoms, site.metric, order)
        yield Offer(dictionary, groups, losses, per_atom, fixed)
    yield Offer(None, 1, torch.zeros(1, dtype=torch.float64), site.filters.numel())


def _build(site: ProbeSite, dictionary: Dictionary, n_atoms: int, seed: int) -> Atoms:
    statistics = site.statistics
    if dictionary.from_weight:
        C = None if site.metric is None else site.metric.moments.mean(dim=0)
        statistics = InputStatistics(0, covariance=C)
    return Rule(dictionary, n_atoms / site.n_visible, 1, site.grid).build(
        site.n_visible,
        site.n_units,
        statistics=statistics,
        generator=torch.Generator().manual_seed(seed),
        weight=site.W.t(),
    )
