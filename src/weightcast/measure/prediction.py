"""measure: how well one dictionary predicts one layer's weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from weightcast.dictionaries import Atoms, DenseBase, Dictionary, SharedBases
from weightcast.dictionaries.families import Family
from weightcast.dictionaries.singular import leading_filters
from weightcast.layers.rule import Rule
from weightcast.measure.probe_table import CEILING, ProbeRow
from weightcast.plan.sites import ProbeSite
from weightcast.weight import PredictedWeight


def candidates(site: ProbeSite) -> dict[str, Dictionary]:
    """What is tried where the user names no dictionaries."""
    return Family(site.grid, site.statistics is not None).probed


def measure(
    site: ProbeSite, dictionary: str, rule: Rule, seed: int, bases: SharedBases
) -> ProbeRow:
    """Predict all weights by one rule; a dictionary that cannot be built says why."""
    n_atoms, row = 0, partial(ProbeRow, site.name, dictionary, rule.fraction or 0.0)
    try:
        n_atoms = rule.atoms_for(site.n_visible)
        weight = None if dictionary == CEILING else _build(site, rule, seed, bases)
    except ValueError as error:
        return row(n_atoms, r2=None, reason=str(error))
    # A learned U is found along with V, as ``compress`` does.
    free = weight is None or weight.atoms.base.is_learned
    if weight is None or free:
        weight = _best(site, rule)
    if rule.dictionary.reads_weights:
        known = torch.gather(site.W, 1, weight.atoms.indices[weight.unit_columns])
        with torch.no_grad():
            weight.V.copy_(known.t())  # (n_atoms, n_units)
    else:
        weight.fit(site.W)
    r2 = explained(site.W, weight.weight.detach())
    if site.metric is None:
        return row(n_atoms, r2)
    if free:  # the best for the output is another
        weight = _best(site, rule, site.metric.moments.mean(dim=0))
    return row(n_atoms, r2, 1 - weight.fit(site.W, site.metric))


def _build(site: ProbeSite, rule: Rule, seed: int, bases: SharedBases) -> PredictedWeight:
    atoms = rule.build(
        site.n_visible,
        site.n_units,
        grid=site.grid,
        statistics=site.statistics,
        generator=torch.Generator().manual_seed(int(seed)),
        bases=bases,
        weight=site.W.t(),
    )
    return PredictedWeight(atoms, site.n_units)


def _best(site: ProbeSite, rule: Rule, C: Tensor | None = None) -> PredictedWeight:
    """Every column's own singular vectors: no atoms explain more."""
    n_atoms = rule.atoms_for(site.n_visible)
    parts = site.W.tensor_split(rule.columns)
    rows = [leading_filters(W.t(), n_atoms, C).t() for W in parts]
    indices = torch.arange(rule.columns * n_atoms).view(rule.columns, n_atoms)
    return PredictedWeight(Atoms(DenseBase(torch.cat(rows)), indices), site.n_units)


def explained(W: Tensor, predicted: Tensor) -> float:
    """R2 = 1 - sum (w - w_predicted)^2 / sum (w - mean of its filter)^2, of (n_units, n_visible).

    1 at best, below 0 where the means alone do better; 0 for filters without variance.
    """
    variance = float((W - W.mean(dim=1, keepdim=True)).square().sum())
    return 1 - float((W - predicted).square().sum()) / variance if variance else 0.0
