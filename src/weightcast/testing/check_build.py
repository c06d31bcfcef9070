"""What a dictionary's ``build`` may read, draw and change, and what it has to refuse."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch

from weightcast.testing.randomness import (
    GENERATOR,
    Source,
    other_surroundings,
    unmoved_randomness,
    watched_generators,
)
from weightcast.testing.require import require, require_close, require_same_indices
from weightcast.testing.tried import STATISTICS, Build, Checks, TriedDictionary


def _is_reproducible(tried: TriedDictionary) -> None:
    expected = tried.atoms(columns=3, seed=11)
    with other_surroundings():
        again = tried.atoms(columns=3, seed=11)
    require_same_indices(again.indices, expected.indices)
    require_close(again.dictionaries(), expected.dictionaries(), 1e-9, "U")


def _keeps_nothing(tried: TriedDictionary) -> None:
    first, remedy = tried.first, "keep nothing from one build to the next"
    tried.build(tried.site(seed=1))  # which a cache would mix with seed 0's
    again = tried.build(tried.site())
    than = f" from the first build's: {remedy}"
    require_same_indices(again.atoms.indices, first.atoms.indices, than)
    require_close(again.U, first.U, 1e-9, "U, built once more with the first seed,")
    require(
        torch.equal(again.after, first.after),
        f"the generator is left in another state than by the first build of its seed: {remedy}",
    )


def _draws_from_the_site(tried: TriedDictionary) -> None:
    with unmoved_randomness():
        tried.atoms(columns=2)
    build, own = _watched(tried, 0)
    for source in sorted(own & _watched(tried, 1)[1]):  # what the site seeds has other seeds there
        again, _ = _watched(tried, 0, {source})
        kind, seed = source
        require(  # a draw that merely tries something out, such as whether a map is affine, may be
            again.is_like(build),
            f"its atoms are drawn from a {kind} of its own, of seed {seed} whatever the site's: "
            f"{GENERATOR}, site.generator, or seed yours with a number drawn from that",
        )


def _watched(
    tried: TriedDictionary, seed: int, reseeded: AbstractSet[Source] = frozenset()
) -> tuple[Build, set[Source]]:
    """A build and the generators of its own, some of which may be given another seed."""
    site = tried.site(columns=2, seed=seed)
    with watched_generators(site.generator, reseeded) as seen:
        return tried.build(site), seen


def _follows_the_seed(tried: TriedDictionary) -> None:
    first, *others = (tried.build(tried.site(columns=3, seed=seed)) for seed in range(4))
    if any(build.draws for build in (first, *others)):  # what draws nothing is right too
        require(
            not all(build.is_like(first) for build in others),
            "the generator is drawn from, and seeds 0 to 3 give the same atoms",
        )


def _keeps_statistics(tried: TriedDictionary) -> None:
    for n_atoms in (tried.n_atoms, tried.n_visible):
        expected, site = tried.statistics, tried.site(n_atoms, columns=2)
        tried.dictionary.build(site)
        for name in STATISTICS:
            one, two = getattr(expected, name), getattr(site.statistics, name)
            same = one is None or (
                one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)
            )
            require(
                same,
                f"the {name} is changed in place, and other dictionaries read it too: copy it "
                f"first, as by site.require(self, {name!r}).clone()",
            )


def _keeps_indices(tried: TriedDictionary) -> None:
    first = tried.atoms(columns=3, seed=1)
    site = replace(tried.site(columns=3, seed=2), indices=first.indices.clone())
    again = tried.dictionary.build(site)
    require(
        torch.equal(again.indices, first.indices),
        "a file's indices are replaced by a new draw: take site.choose(draw)",
    )
    if tried.dictionary.rebuildable:
        what = "U, rebuilt from its indices (rebuildable is True),"
        require_close(again.dictionaries(), first.dictionaries(), 1e-9, what)


def _refuses_too_many(tried: TriedDictionary) -> None:
    n_atoms = 50 * tried.n_visible
    try:
        atoms = tried.atoms(n_atoms)
    except ValueError as error:
        numbered = str(n_atoms) in str(error).replace(",", "")
        require(numbered, f"the message does not say that {n_atoms} were asked for: {error}")
    else:
        n = len(set(atoms.indices[0].tolist()))
        few = f"of {n_atoms} atoms for {tried.n_visible} inputs only {n} differ"
        require(n == n_atoms, few)


def _refuses_missing_inputs(tried: TriedDictionary) -> None:
    if not tried.dictionary.needs:
        return
    try:
        tried.dictionary.atoms(tried.n_visible, tried.n_atoms, grid=tried.grid)
    except ValueError:
        return
    needs = ", ".join(tried.dictionary.needs)
    require(False, f"it needs {needs} and builds without: take site.require(self, ...)")


BUILD_CHECKS: Checks = {
    "the same seed gives the same atoms, whatever the surroundings": _is_reproducible,
    "the same seed gives the same atoms, whatever was built before": _keeps_nothing,
    "building draws from the given generator only": _draws_from_the_site,
    "other seeds give other atoms": _follows_the_seed,
    "the statistics are left as they are": _keeps_statistics,
    "given indices are kept": _keeps_indices,
    "too many atoms are refused": _refuses_too_many,
    "missing inputs are refused": _refuses_missing_inputs,
}
"""Builds depend on their site and on nothing else."""
