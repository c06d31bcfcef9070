"""suggest: a plan to start from."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, Literal

from torch import Tensor, nn

from weightcast.dictionaries import check_fraction
from weightcast.dictionaries.families import Family
from weightcast.grid import Grid
from weightcast.inputs.batches import as_batches, model_input
from weightcast.inputs.gather import MOMENTS
from weightcast.inputs.moments import MOST_INPUTS
from weightcast.inputs.survey import Survey, survey
from weightcast.inputs.walk import Walk
from weightcast.layers import view
from weightcast.layers.rule import Rule
from weightcast.plan.budget import Count, Offers, TooMuchDenseError, gather_offers, left_for
from weightcast.plan.eligibility import convertible_layers, groups_of_one_weight, refusals
from weightcast.plan.plan import Plan
from weightcast.plan.share import MIN_WEIGHTS, share_learned
from weightcast.plan.sites import suiting


def suggest(
    model: nn.Module,
    fraction: float | None = None,
    inputs: Any = None,
    columns: int | None = None,
    *,
    budget: float | int | None = None,
    count: Count = "learned",
    learned: int | None = None,
    purpose: Literal["predict", "adapt"] = "predict",
    seed: int = 0,
    progress: bool = True,
) -> Plan:
    """A plan to start from: kernels where inputs have coordinates, other dictionaries elsewhere.

    With a fraction, every predicted layer learns this share of its weights. With a budget, layers
    share what the network may learn: the loss of every layer's output is counted for every number
    of atoms, as :func:`probe` counts it, and the next number goes where it adds most to the product
    of what the layers keep. So a layer whose inputs vary in few directions gets few atoms.

    Flattened images take kernels (in windows up to 32 x 32, unless the weights look trained),
    convolutions of more than 4 channels the covariance of their channels times a kernel on space,
    and with inputs all others the leading directions of theirs. ``count="stored"`` is
    for :func:`compress`: dictionaries that a file must hold count in full, and each layer takes
    the best among kernels, cosines, inputs of each unit's own (``SparseAtoms``), and singular
    vectors of its weights. A layer then gets at least nine tenths of what an equal share would be,
    unless it loses less than a ten thousandth of its output. With a fraction ``stored`` decides for
    what loses least among the same dictionaries; what would take more room than dense stays dense.

    No plan stores more numbers than the dense network: columns whose atoms a file must hold are
    fewer where they would, and if one is too many atoms follow from a rule.

    Cost: with inputs and a budget each block of the model runs a few times over the inputs, and
    for each layer n_visible^2 (n_visible + n_units) multiply-adds are made for each dictionary.

    The classifier (the layer that runs last), layers of fewer than 1,000 weights, and layers for
    which ``fraction`` is less than one atom stay dense.

    Args:
        model: dense.
        fraction: share of each predicted layer's weights that is learned, in (0, 1]; 0.05 where
            neither it nor a budget is given.
        inputs: example batches as for ``convert``, at most 1,000 where they have no length. With
            them layers come in the order in which the model runs them, the first has the grid of
            the images it is given, and covariances are known. Without them layers come in the order
            of registration, and take kernels where they have a grid, else DCT atoms, or to adapt
            relative rules.
        columns: groups of units with atoms of their own, fewer where a layer has fewer units; None
            takes 10, or to adapt 16, of convolutions and relative rules 1.
        budget: numbers that the whole network learns (or stores) at most, what stays dense
            included: a share of all its weights in (0, 1), or a whole number.
        learned: weights that are added for ``purpose="adapt"`` at most, heads not counted, see
            :func:`~weightcast.plan.share.share_learned`.
        purpose: ``predict``, or ``adapt``: a plan for :func:`adapt`.
        count: ``learned``, or ``stored``: what a saved folder holds, indices and all.
        seed: of draws of atoms, as ``convert`` makes them.
        progress: whether to show a bar, or lines, while inputs are read and a budget is shared.

    Returns:
        A plan with one exact name per predicted layer.

    Raises:
        ValueError: a fraction outside (0, 1], both a fraction and a budget, a model in which no
            layer is left to predict, a budget below what stays dense or below one atom per layer,
            or inputs on which the model fails.
    """
    if (purpose == "adapt") != (learned is not None):
        raise ValueError(f"purpose is {purpose!r} and learned {learned}: to adapt, give both")
    if learned is not None and (fraction is not None or budget is not None):
        raise ValueError(f"learned is {learned:,}: give no fraction or budget beside it")
    if fraction is not None and budget is not None:
        raise ValueError(f"fraction is {fraction} and budget {budget}: give one of the two")
    fraction = 0.05 if fraction is None else fraction
    check_fraction(fraction)
    fraction = float(fraction)
    batches = None if inputs is None else as_batches(inputs, progress=progress)
    if learned is not None:
        return share_learned(model, learned, batches, columns)
    columns = 10 if columns is None else columns
    if budget is None and count == "learned":
        return _plan_for_all(model, fraction, batches, columns)
    with ExitStack() as stack:
        offers, _ = offers_for(
            model, batches, stack, columns,
            least=fraction if budget is None else None, budget=budget,
            count=count, seed=seed, progress=progress,
        )  # fmt: skip
        return offers.for_fraction(fraction) if budget is None else offers.for_budget(budget)


def offers_for(
    model: nn.Module,
    batches: list[Any] | None,
    stack: ExitStack,
    columns: int = 10,
    *,
    count: Count,
    seed: int,
    progress: bool,
    least: float | None = None,
    budget: float | int | None = None,
    remember: bool = False,
) -> tuple[Offers, Walk | None]:
    """What each layer could be predicted from, and the walk that told of its inputs.

    The walk is closed with ``stack``; ``remember`` keeps what it told. Arguments as for
    :func:`suggest`; ValueError where no layer is left to predict, or none with ``least`` as the
    fraction, and for a budget that cannot be, all before any work.
    """
    layers = _Layers(model, batches)
    if not layers.found or (least is not None and not layers.large_enough(least)):
        raise layers.nothing_left(least)
    if budget is not None:
        left_for(model, layers.found, budget, count)
    walk = None
    if batches is not None:
        needs = dict.fromkeys(layers.found, (MOMENTS, "covariance"))
        sizes = {name: view(layers.every[name]).sizes[0] for name in layers.found}
        surveyed = layers.surveyed.among({n for n, size in sizes.items() if size <= MOST_INPUTS})
        walk = stack.enter_context(
            Walk(model, surveyed, batches, needs, seed, refresh="never", remember=remember)
        )
    how: dict[str, Any] = {"count": count, "seed": seed, "progress": progress}
    return gather_offers(model, layers.found, walk, columns, **how), walk


def _plan_for_all(
    model: nn.Module, fraction: float, batches: list[Any] | None, columns: int
) -> Plan:
    """Every layer learns a share, of what suits its inputs."""
    layers = _Layers(model, batches)
    rules: dict[str, Rule | None] = {}
    for name, grid in layers.found.items():
        seen = view(layers.every[name])
        n_visible, n_units = seen.sizes
        if round(fraction * n_visible) < 1:
            continue
        have_rows = batches is not None and not seen.blindness
        family = suiting(layers.every[name], grid, data=have_rows)
        groups = min(columns, n_units)
        if not family.own.rebuildable and not family.own.factored:
            # A file holds the atoms of all columns: no more than leave it below the dense layer's.
            n_atoms = round(fraction * n_visible)
            each = n_atoms * (n_visible + 1)
            groups = min(groups, (n_visible * n_units - n_atoms * n_units) // each)
        if groups < 1:
            family, groups = Family(seen.grid, data=False), min(columns, n_units)
        rules[name] = Rule(family.own, fraction, groups, grid)
    if not rules:
        raise layers.nothing_left(fraction)
    return Plan({**rules, "*": None})


class _Layers:
    """The layers of a model, the order in which they run, and those that may be predicted.

    Without batches the order is that of registration. ``found`` has a grid for each layer that may
    be predicted, where the layer knows none itself: not the last, the classifier, nor tied, refused
    and small ones.
    """

    def __init__(self, model: nn.Module, batches: list[Any] | None) -> None:
        # Layers that multiply their inputs; embeddings do not.
        tables, self.convertible = (nn.Embedding, nn.EmbeddingBag), convertible_layers(model)
        self.every: Any = {n: x for n, x in self.convertible.items() if not isinstance(x, tables)}
        self.model, self.surveyed = model, Survey()
        self.order = self._order(batches)
        image = _image_shape(batches[0]) if batches else ()
        alone = {group[0] for group in groups_of_one_weight(self.convertible) if len(group) == 1}
        free = alone - refusals(self.model, self.convertible).keys()
        self.found = {
            name: _grid(self.every[name], image if name == self.order[0] else ())
            for name in self.order[:-1]
            if name in free and self.every[name].weight.numel() >= MIN_WEIGHTS
        }

    def _order(self, batches: list[Any] | None) -> list[str]:
        """A layer whose inputs are hidden runs after the other weights of its module."""
        if batches is None:
            return list(self.every)
        own = [name for name, layer in self.every.items() if not view(layer).blindness]
        self.surveyed = survey(self.model, own, batches)
        order = list(self.surveyed.order)
        for name in (name for name in self.every if name not in own):
            parent = name.rpartition(".")[0]
            last = [place for place, n in enumerate(order) if n.rpartition(".")[0] == parent][-1:]
            for place in last:
                order.insert(place + 1, name)
        return order

    def large_enough(self, fraction: float) -> list[str]:
        """The layers of which a fraction is an atom or more."""
        sizes = {name: view(self.every[name]).sizes[0] for name in self.found}
        return [name for name, n_visible in sizes.items() if round(fraction * n_visible) >= 1]

    def nothing_left(self, fraction: float | None = None) -> ValueError:
        """The error where no layer is left to predict, or is large enough for a fraction."""
        if not self.found or fraction is None:
            refused = refusals(self.model, self.convertible).items()
            why = next((f"; {refusal.about(f'layer {name!r}')}" for name, refusal in refused), "")
            return TooMuchDenseError(
                f"no layer to predict: of the model's {len(self.order)} layer(s) that run and "
                f"multiply inputs, the last one, those under {MIN_WEIGHTS:,} weights, and those "
                f"that are tied or refused stay dense: name layers in a Plan of your own{why}"
            )
        widest = max(view(self.every[name]).sizes[0] for name in self.found)
        return ValueError(
            f"no layer to predict at fraction {fraction}: the {len(self.found)} layer(s) that "
            f"could be have at most {widest:,} inputs, and {fraction * widest:.2g} atoms are below "
            f"one: take a fraction of at least {math.ceil(1e4 / widest) / 1e4:g}"
        )


def _image_shape(batch: Any) -> tuple[int, ...]:
    """(channels, *size) of a batch of images, () if it is none."""
    x = model_input(batch)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
        return ()
    return tuple(x.shape[1:]) if x.dim() > 3 else (1, *x.shape[1:])


def _grid(layer: Any, image: tuple[int, ...]) -> Grid | None:
    """The grid of a linear layer that is given flattened images; convolutions know their own."""
    n_visible, _ = view(layer).sizes
    if isinstance(layer, nn.Linear) and image and math.prod(image) == n_visible:
        return Grid(image[1:], channels=image[0])
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and math.prod(layer.kernel_size) == 1:
        return Grid((n_visible,))  # its channels on a line, for atoms that need one
    return None
