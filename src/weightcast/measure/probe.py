"""probe: hide most of each layer's weights, predict them from the rest, and count what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from weightcast.dictionaries import (
    Dictionary,
    RandomGaussian,
    SharedBases,
    SingularVectors,
    check_fraction,
    count_atoms,
)
from weightcast.grid import Grid
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import MOMENTS, naming_layer
from weightcast.inputs.progress import Progress
from weightcast.inputs.walk import Walk
from weightcast.layers import view
from weightcast.layers.rule import Rule, layer_seed
from weightcast.measure.prediction import candidates, measure
from weightcast.measure.probe_table import CEILING, FLOOR, Probe, ProbeRow
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.sites import ProbeSite, find_sites, observe


def probe(
    model: nn.Module | Mapping[str, Any],
    fractions: Sequence[float] = (0.05, 0.25),
    dictionaries: Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary | None = None,
    inputs: Any = None,
    *,
    layers: Sequence[str] | None = None,
    columns: int = 1,
    grids: Mapping[str, Grid | tuple[int, ...]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Probe:
    """Hide all but a fraction of each layer's weights and predict them, dictionary by dictionary.

    A dictionary of kernel ridge regression (``Kernel``, ``Covariance`` and ``SquaredCovariance``
    with mixing ``ridge`` and atoms that are positions) is shown n_atoms weights of every filter,
    at positions drawn as ``convert`` draws them, and predicts the whole filter from those: V holds
    the known weights. Any other dictionary is given the projection of the filter on n_atoms atoms:
    V is fitted to all weights, and n_atoms numbers of each filter are known all the same. Then

    ``r2 = 1 - |W - U V|^2 / |W - mean of each filter|^2``

    over all weights, the known ones too. The ``floor`` is what a projection on as many random
    orthonormal atoms gives, about the fraction itself; the ``ceiling`` is the best that as many
    atoms can do, the singular vectors of W.

    With inputs, data-driven dictionaries are measured too, and ``output_r2`` is the share of the
    variance of the layer's output x W that U V keeps if V is fitted to it, as ``compress`` does.

    Args:
        model: trained, dense; or a state dict, whose tensors of two to five axes are taken for
            the weights of linear layers and convolutions.
        fractions: shares of known weights, each in (0, 1].
        dictionaries: by the names that the rows give them, or in a list, or one; None takes a
            kernel and cosines where inputs have coordinates, cosines elsewhere, and with inputs
            their covariance.
        inputs: example batches as for ``convert``, at most 1,000 where they have no length; not for
            a state dict, which cannot be run.
        layers: names; None takes all layers that can be predicted.
        columns: groups of units, each with atoms of its own, fewer where a layer has fewer units.
        grids: coordinates of linear layers' inputs by layer name, such as ``(28, 28)``.
        seed: of the known positions; a layer's depend on the seed and its name alone.
        progress: whether to show a bar on a terminal, a line per layer elsewhere, on stderr.

    Returns:
        A :class:`Probe`: ``print`` it, or take ``.rows``, ``.to_dict()``.

    Raises:
        ValueError: no layer, one that the model lacks, a fraction outside (0, 1], one below one
            atom of a layer that ``layers`` names (others then have rows with the reason), or inputs
            on which the model fails, naming the module.

    References: Denil et al. 2013, section 2 and figure 1.
    """
    if not isinstance(fractions, Sequence) or not fractions or columns < 1:
        raise ValueError(
            f"fractions is {fractions!r} and columns {columns!r}: give at least one fraction, and "
            "1 column or more"
        )
    sites = find_sites(model, layers, grids or {})
    for fraction in fractions:
        check_fraction(fraction)
        for name, site in sites.items() if layers is not None else ():
            with naming_layer(name):
                count_atoms(fraction, site.n_visible)
    named = None if dictionaries is None else _named(dictionaries)
    if inputs is not None and not isinstance(model, nn.Module):
        raise ValueError("inputs need a model to run: a state dict has weights only")
    batches = None if inputs is None else as_batches(inputs, progress=progress)
    rows: list[ProbeRow] = []
    with Progress("probing", len(sites), show=progress) as shown:
        needs = {"covariance"}.union(*(dictionary.needs for dictionary in (named or {}).values()))
        for site in _observed(model, sites, batches, needs, seed, shown.say):
            tried = candidates(site) if named is None else named
            tried = {FLOOR: RandomGaussian("orthonormal"), **tried, CEILING: SingularVectors()}
            draws, bases = layer_seed(seed, site.name), SharedBases()
            parts = min(columns, site.n_units)
            own = [
                measure(site, kind, Rule(dictionary, fraction, parts, site.grid), draws, bases)
                for kind, dictionary in tried.items()
                for fraction in fractions
            ]
            rows += own
            shown.step()
            known = [row.r2 for row in own if row.r2 is not None and row.dictionary != CEILING]
            shown.say(f"{site.name}: {f'r2 up to {max(known):.3f}' if known else own[0].reason}")
    return Probe(tuple(rows), seed)


def _observed(
    model: Any,
    sites: Mapping[str, ProbeSite],
    batches: list[Any] | None,
    needs: set[str],
    seed: int,
    say: Callable[[str], None],
) -> Iterator[ProbeSite]:
    """The sites, each with statistics and metric of its inputs, gathered a block at a time."""
    if batches is None:
        yield from sites.values()
        return
    layers = convertible_layers(model)
    names = [name for name in sites if not view(layers[name]).blindness]
    every = dict.fromkeys(names, (MOMENTS, *needs))
    with Walk(model, names, batches, every, seed, refresh="never", say=say) as walk:
        for name, site in sites.items():
            yield observe(model, site, walk) if name in walk.order else site


def _named(
    dictionaries: Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary,
) -> dict[str, Dictionary]:
    """Dictionaries by name; those of a list by their classes, told apart by numbers."""
    if isinstance(dictionaries, Mapping):
        named = dict(dictionaries)
    else:
        named = {}
        listed = [dictionaries] if isinstance(dictionaries, Dictionary) else dictionaries
        for dictionary in listed:
            kind = type(dictionary).__name__
            count = sum(name.split(" ")[0] == kind for name in named)
            named[f"{kind} {count + 1}" if count else kind] = dictionary
    for name, dictionary in named.items():
        if not isinstance(dictionary, Dictionary) or name in (FLOOR, CEILING):
            raise ValueError(
                f"dictionaries: {name!r} is {dictionary!r}: take instances of the classes in "
                f"weightcast.dictionaries, and other names than {FLOOR!r} and {CEILING!r}"
            )
    if not named:
        raise ValueError("dictionaries is empty: name one, or take None for the usual ones")
    return named
