"""What a dictionary's ``build`` may read, draw and change, and what it has to refuse."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch

from weightcast.testing.checks import require, require_close
from weightcast.testing.randomness import (
    GENERATOR,
    Source,
    other_surroundings,
    unmoved_randomness,
    watched_generators,
)
from weightcast.testing.trial import STATISTICS, Build, Trial


def _is_reproducible(trial: Trial) -> None:
    expected = trial.atoms(columns=3, seed=11)
    with other_surroundings():
        again = trial.atoms(columns=3, seed=11)
    different = int((again.indices != expected.indices).sum())
    require(different == 0, f"{different} of {expected.indices.numel()} indices differ")
    require_close(again.dictionaries(), expected.dictionaries(), 1e-9, "U")


def _keeps_nothing(trial: Trial) -> None:
    first = trial.first
    trial.build(trial.site(seed=1))  # which a cache would mix with seed 0's
    again = trial.build(trial.site())
    different = int((again.atoms.indices != first.atoms.indices).sum())
    n = first.atoms.indices.numel()
    remedy = "keep nothing from one build to the next"
    require(different == 0, f"{different} of {n} indices differ from the first build's: {remedy}")
    require_close(again.U, first.U, 1e-9, "U, built once more with the first seed,")
    require(
        torch.equal(again.after, first.after),
        f"the generator is left in another state than by the first build of its seed: {remedy}",
    )


def _draws_from_the_site(trial: Trial) -> None:
    with unmoved_randomness():
        trial.atoms(columns=2)
    build, own = _watched(trial, 0)
    for source in sorted(own & _watched(trial, 1)[1]):  # what the site seeds has other seeds there
        again, _ = _watched(trial, 0, {source})
        kind, seed = source
        require(  # a draw that merely tries something out, such as whether a map is affine, may be
            _alike(again, build),
            f"its atoms are drawn from a {kind} of its own, of seed {seed} whatever the site's: "
            f"{GENERATOR}, site.generator, or seed yours with a number drawn from that",
        )


def _watched(
    trial: Trial, seed: int, reseeded: AbstractSet[Source] = frozenset()
) -> tuple[Build, set[Source]]:
    """A build and the generators of its own, some of which may be given another seed."""
    site = trial.site(columns=2, seed=seed)
    with watched_generators(site.generator, reseeded) as seen:
        return trial.build(site), seen


def _follows_the_seed(trial: Trial) -> None:
    builds = [trial.build(trial.site(columns=3, seed=seed)) for seed in range(4)]
    if any(build.draws for build in builds):  # what draws nothing is right too
        require(
            not all(_alike(build, builds[0]) for build in builds[1:]),
            "the generator is drawn from, and seeds 0 to 3 give the same atoms",
        )


def _keeps_statistics(trial: Trial) -> None:
    for n_atoms in (trial.n_atoms, trial.n_visible):
        expected, site = trial.statistics, trial.site(n_atoms, columns=2)
        trial.dictionary.build(site)
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


def _keeps_indices(trial: Trial) -> None:
    first = trial.atoms(columns=3, seed=1)
    site = replace(trial.site(columns=3, seed=2), indices=first.indices.clone())
    again = trial.dictionary.build(site)
    require(
        torch.equal(again.indices, first.indices),
        "a file's indices are replaced by a new draw: take site.choose(draw)",
    )
    if trial.dictionary.rebuildable:
        require_close(
            again.dictionaries(),
            first.dictionaries(),
            1e-9,
            "U, rebuilt from its indices (rebuildable is True),",
        )


def _refuses_too_many(trial: Trial) -> None:
    n_atoms = 50 * trial.n_visible
    try:
        atoms = trial.atoms(n_atoms)
    except ValueError as error:
        numbered = str(n_atoms) in str(error).replace(",", "")
        require(numbered, f"the message does not say that {n_atoms} were asked for: {error}")
    else:
        n = len(set(atoms.indices[0].tolist()))
        require(
            n == n_atoms,
            f"of {n_atoms} atoms for {trial.n_visible} inputs only {n} differ",
        )


def _refuses_missing_inputs(trial: Trial) -> None:
    if not trial.dictionary.needs:
        return
    try:
        trial.dictionary.atoms(trial.n_visible, trial.n_atoms, grid=trial.grid)
    except ValueError:
        return
    needs = ", ".join(trial.dictionary.needs)
    require(False, f"it needs {needs} and builds without: take site.require(self, ...)")


def _alike(one: Build, two: Build) -> bool:
    """Whether two builds took the same atoms, up to rounding."""
    same = torch.equal(one.atoms.indices, two.atoms.indices) and one.U.shape == two.U.shape
    return same and bool((one.U - two.U).abs().max() <= 1e-9 * two.U.abs().max())


BUILD_CHECKS: dict[str, Callable[[Trial], None]] = {
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
