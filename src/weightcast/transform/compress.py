"""compress: trained dense layers become predicted ones, with V fitted in closed form."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics, SharedBases
from weightcast.dictionaries.singular import leading_filters
from weightcast.inputs.batches import as_batches
from weightcast.inputs.gather import MOMENTS, naming_layer
from weightcast.inputs.moments import MOST_INPUTS, Moments
from weightcast.inputs.progress import Progress
from weightcast.inputs.walk import Refresh, Walk
from weightcast.layers import PredictedLayer, view
from weightcast.layers.models import Model, check_values
from weightcast.layers.rule import Rule, layer_seed
from weightcast.least_squares import Metric, choose_atoms
from weightcast.plan.eligibility import convertible_layers
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest
from weightcast.serialization import Plain
from weightcast.transform.fitted import FittedFolder
from weightcast.transform.swap import swap

AtomChoice = Literal["fitted", "plan"]
Target = Literal["dense", "compressed"]


def compress(
    model: Model,
    plan: Plan | Mapping[str, Rule | None] | None = None,
    inputs: Any = None,
    *,
    budget: float | int | None = None,
    selection: AtomChoice = "fitted",
    target: Target = "dense",
    refresh: Refresh = "layer",
    ridge: float | None = None,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Model:
    """Replace trained layers by predicted ones that come as near to them as the plan lets them.

    Without inputs V is the least-squares solution of U V = W. With inputs V minimises the error of
    the layer's output: layer by layer, in the order in which the model runs them, each from its
    inputs x in the network whose lower layers are compressed already (layers whose inputs cannot be
    seen, such as embeddings, what is tied to them, and layers of 16,384 inputs or more, whose
    second moments would take several times 2 GiB, are fitted to W before all others),

    ``min_V |x U V + b' - (x~ W + b)|^2``

    where x~ are its inputs in the dense network, so that a layer corrects what those below have
    lost, and the bias b', where the layer has one, takes up the mean. Training can go on
    afterwards; :func:`compression_report` says what each layer lost.

    Cost: each module runs about once on each batch in each of the two networks, whatever the depth
    (each block is begun as often as it has layers of different inputs). Only second moments of x
    are kept, n_visible^2 numbers (twice) for one layer at a time, and outputs of modules, up to
    64 MiB of them in memory and more in temporary files (:mod:`weightcast.inputs.replay`). The
    dense weights are those of ``model``, not copied.

    Args:
        model: trained, dense; it is left as it is.
        plan: as for ``convert``; ``LowRank`` gets the best U too. None takes the ``budget``.
        inputs: example batches as for ``convert``, at most 1,000 where they have no length;
            some thousand rows more than the widest layer has inputs are enough.
        budget: in place of a plan, numbers that the network stores at most, what stays dense
            included: a share of all its weights in (0, 1), or a whole number. The plan is then
            :func:`suggest`'s with ``count="stored"``.
        selection: ``fitted``: each column takes those atoms of the dictionary's base that explain
            its own units best. ``plan``: those that ``convert`` would draw.
        target: ``dense``: the outputs that the layer has in the dense network. ``compressed``:
            those that its dense weights would have on the compressed network's inputs.
        refresh: how often inputs are seen anew. ``layer``: after every change of a layer below.
            ``block``: once for the layers of a block (an entry of the outermost list of modules).
            ``never``: x are those of the dense network, and nothing is corrected; the fastest, and
            the better one where inputs are few beside the widest layer.
        ridge: added to C = E[x^T x], in units of its mean diagonal, above 0: how much the error of
            the weights counts where inputs do not tell. None: a fifth of inputs over rows, at least
            0.03 and at most 0.1.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        resume: a folder for every layer as soon as it is fitted, made if it is missing. The same
            call goes on from there, and gives bit-equal results.
        progress: whether to show a bar on a terminal, a line per layer elsewhere, on stderr.

    Returns:
        A new model with predicted layers.

    Raises:
        ValueError: what the plan or a dictionary cannot do, naming the layer, or inputs on which
            the model fails, naming the module.
    """
    if (plan is None) == (budget is None):
        raise ValueError(
            f"plan is {plan!r} and budget {budget!r}: give one of the two, such as budget=0.25"
        )
    check_values(model)
    fitting = Fitting(selection, target, refresh, ridge, seed)
    batches = None if inputs is None else as_batches(inputs, progress=progress)
    if plan is None:
        how: dict[str, Any] = {"count": "stored", "seed": seed, "progress": progress}
        plan = suggest(model, inputs=batches, budget=budget, **how)
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    rules = plan.resolve(model)
    with Progress("compressing", len(rules), show=progress) as shown, ExitStack() as stack:
        walk = None
        if batches is not None:
            every = convertible_layers(model)
            dictionaries = {name: rule.dictionary for name, rule in rules.items()}
            needs = {
                name: (MOMENTS, *(() if dictionary.from_weight else dictionary.needs))
                for name, dictionary in dictionaries.items()
            }
            walk = stack.enter_context(
                Walk(
                    model, _seen(every, rules), batches, needs, seed,
                    refresh=refresh, paired=fitting.paired, say=shown.say,
                )
            )  # fmt: skip
        fitted = None
        if resume is not None:
            fitted = FittedFolder(resume, model, rules, asdict(fitting), batches)
        return fit_layers(model, rules, fitting, walk, shown, fitted)


def fit_layers(
    model: Model,
    rules: Mapping[str, Rule],
    fitting: Fitting,
    walk: Walk | None,
    shown: Progress,
    fitted: FittedFolder | None = None,
) -> Model:
    """A new model in which some layers are fitted, to what ``walk`` knows of their inputs.

    Those that a folder has already are taken from there.
    """
    every = convertible_layers(model)
    # What is fitted to W comes first, for it changes what the others are given.
    order = [] if walk is None else [name for name in walk.order if name in rules]
    before = [name for name in rules if name not in order]
    before.sort(key=lambda name: view(every[name]).blindness is not None)
    return swap(model, [*before, *order], _Fits(every, rules, fitting, walk, shown, fitted).make)


@dataclass(frozen=True)
class Fitting(Plain):
    """How every layer is fitted; the arguments of :func:`compress`."""

    selection: AtomChoice = "fitted"
    target: Target = "dense"
    refresh: Refresh = "layer"
    ridge: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise ValueError(
                f"ridge is {self.ridge!r}: it must be above 0 and finite, for example 0.001"
            )

    @property
    def paired(self) -> bool:
        """Whether layers aim at what the dense network's have, given inputs of their own."""
        return self.target == "dense" and self.refresh != "never"


@dataclass
class _Fits:
    """Fits layer after layer, each in the network as the layers before left it.

    ``layers`` are all that could be predicted, one that is called twice once; ``walk`` knows what
    the batches show of them, if there are batches.
    """

    layers: Mapping[str, Any]
    rules: Mapping[str, Rule]
    settings: Fitting
    walk: Walk | None
    shown: Progress
    folder: FittedFolder | None

    def __post_init__(self) -> None:
        self.bases = SharedBases()
        biases = {name: view(layer).bias for name, layer in self.layers.items()}
        holders = Counter(id(bias) for bias in biases.values() if bias is not None)
        self.free_biases = {name for name, bias in biases.items() if holders[id(bias)] == 1}

    def make(
        self, name: str, layer: Any, current: nn.Module, twin: PredictedLayer | None
    ) -> PredictedLayer:
        """The layer fitted in place of a dense one; it is given the dense one's bias, shifted."""
        if twin is not None:
            fitted, told = view(layer).predict(twin.rule, atoms=twin.atoms), "as its twin"
        elif self.folder is not None and (kept := self.folder.load(name, layer, self.bases)):
            fitted, told = kept
        else:
            fitted, told = self._fit(name, layer, current)
            if self.folder is not None:
                self.folder.save(name, fitted, view(layer).bias, told)
        if self.walk is not None:
            self.walk.settle(name)
        self.shown.step()
        self.shown.say(f"{name}: {told}")
        return fitted

    def _fit(self, name: str, layer: Any, current: nn.Module) -> tuple[PredictedLayer, str]:
        """The layer with its V, and how much of what it is to give that leaves."""
        # What is constant goes to the bias, unless another layer has the same one.
        free = name in self.free_biases
        known = self._observe(name, current, centred=free)
        with naming_layer(name):
            fitted, W = self._predict(name, layer, known)
        if fitted.atoms.base.is_learned:
            _learn_base(fitted, W, known.metric)
        left = fitted.fit_filters(W, known.metric)
        if known.moments is not None and free:
            shift = known.moments.bias_shift(
                fitted.check_weight(layer.weight), fitted.check_weight(fitted.multiply_out())
            )
            # One of its own, for a module that is no layer may hold the old one.
            bias = layer.bias.detach() + shift.to(layer.bias)
            layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
        kind = "weights" if known.metric is None else "output"
        return fitted, f"{left:.2%} of its {kind} left"

    def _observe(self, name: str, current: nn.Module, *, centred: bool) -> _Known:
        """What the batches tell of the layer's inputs."""
        needed = _needs_data(self.rules[name])
        seen = self.walk is not None and name in self.walk.order
        if self.walk is None or not (seen or needed):
            return _Known()
        with naming_layer(name):
            given = self.walk.given(name, current)
            statistics = given.statistics()
        if not seen:
            return _Known(statistics)
        metric = given.moments.metric(self.settings.ridge, centred=centred)
        return _Known(statistics, given.moments, metric, centred)

    def _predict(self, name: str, layer: Any, known: _Known) -> tuple[PredictedLayer, Tensor]:
        """The layer with V not fitted yet, and the weights that V is to be fitted to."""
        rule, seed, dense = self.rules[name], layer_seed(self.settings.seed, name), view(layer)
        weight = dense.filters().detach().to("cpu", torch.float64)
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"{int((~weight.isfinite()).sum())} of its {weight.numel()} weights are NaN or "
                "infinite: load weights that are finite, or leave the layer dense"
            )
        statistics = known.statistics
        if known.moments is not None and known.metric is not None:
            weight = known.moments.target(weight, known.metric, centred=known.centred)
            if rule.dictionary.from_weight:
                C = known.metric.moments.mean(dim=0)
                statistics = InputStatistics(known.moments.n_rows, covariance=C, weight=weight.t())
        predict = partial(dense.predict, rule, seed=seed, statistics=statistics, bases=self.bases)
        fitted = predict()
        free = rule.dictionary.chooses and not fitted.atoms.base.is_learned
        free = free and fitted.atoms.base.n_base > fitted.atoms.n_atoms
        if self.settings.selection == "plan" or not free:
            return fitted, weight
        base = copy.deepcopy(fitted.atoms.base).to("cpu", torch.float64)
        n_atoms, units = fitted.atoms.n_atoms, fitted.unit_slices()
        indices = choose_atoms(base, units, weight, n_atoms, known.metric)
        return predict(indices=indices), weight


@dataclass(frozen=True)
class _Known:
    """What is known of a layer's inputs; with a metric V is fitted to its outputs, else to W."""

    statistics: InputStatistics | None = None
    moments: Moments | None = None
    metric: Metric | None = None
    centred: bool = True


def _seen(layers: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Layers whose inputs can be seen, are not too many, and which are not tied to others."""
    unseen = {id(layers[name].weight) for name in rules if view(layers[name]).blindness}
    return [
        name
        for name, rule in rules.items()
        if id(layers[name].weight) not in unseen
        and (view(layers[name]).sizes[0] <= MOST_INPUTS or _needs_data(rule))
    ]


def _needs_data(rule: Rule) -> bool:
    """Atoms made from W can be made without inputs, others that need data cannot."""
    return bool(rule.dictionary.needs) and not rule.dictionary.from_weight


@torch.no_grad()
def _learn_base(layer: PredictedLayer, W: Tensor, metric: Metric | None) -> None:
    """The best U of a LowRank dictionary: leading singular vectors of each column's S W."""
    C = None if metric is None else metric.moments.mean(dim=0)
    atoms: Any = layer.atoms.base.atoms
    for indices, units in zip(layer.atoms.indices, layer.unit_slices(), strict=True):
        best = leading_filters(W[units].t(), len(indices), C)
        atoms[indices] = best.t().to(atoms)
