"""compress: trained dense layers to predicted ones, V fitted in closed form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, InputStatistics, SharedBases
from weightcast.dictionaries.singular import leading_filters
from weightcast.inputs.batches import as_batches
from weightcast.inputs.hooks import layers_run
from weightcast.inputs.moments import PairedMoments, moments_and_statistics
from weightcast.inputs.progress import Progress
from weightcast.layers import PredictedLayer, replace_module, view
from weightcast.layers.rule import Rule, layer_seed
from weightcast.least_squares import Metric, choose_atoms
from weightcast.plan.eligibility import check_values, copied
from weightcast.plan.plan import Plan
from weightcast.transform.convert import split_named

Selection = Literal["fitted", "plan"]
Target = Literal["dense", "compressed"]


def compress(
    model: nn.Module,
    plan: Plan | Mapping[str, Rule | None],
    inputs: Any = None,
    *,
    selection: Selection = "fitted",
    target: Target = "dense",
    ridge: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Replace trained layers by predicted ones that come as near to them as the plan lets them.

    Without inputs V is the least-squares solution of U V = W. With inputs V minimises the error of
    the layer's output: layer by layer, in the order in which the model runs them, each from its
    inputs x in the network whose lower layers are compressed already (layers whose inputs cannot be
    seen, such as embeddings, and what is tied to them are fitted to W before all others),

        min_V |x U V + b' - (x~ W + b)|^2

    where x~ are its inputs in the dense network, so that a layer corrects what those below have
    lost, and the bias b', where the layer has one, takes up the mean. Only second moments of x are
    kept, n_visible^2 numbers (twice) for one layer at a time. Training can go on afterwards;
    :func:`compression_report` says what each layer lost.

    Args:
        model: trained, dense; it is left as it is.
        plan: as for ``convert``. ``LowRank`` gets the best U as well as the best V.
        inputs: example batches as for ``convert``; some thousand rows more than the widest layer
            has inputs are enough.
        selection: ``fitted``: each column takes those atoms of the dictionary's base that explain
            its own units best. ``plan``: those that ``convert`` would draw.
        target: ``dense``: the outputs that the layer has in the dense network. ``compressed``:
            those that its dense weights would have on the compressed network's inputs.
        ridge: added to C = E[x^T x], in units of its mean diagonal, above 0: how much the error of
            the weights counts where inputs do not tell.
        seed: of all draws; a layer's draw depends on the seed and its name alone.
        progress: whether to show a bar on a terminal, a line per layer elsewhere, on stderr.

    Returns:
        A new model with predicted layers.

    Raises:
        ValueError: what the plan or a dictionary cannot do, naming the layer, or inputs on which
            the model fails, naming the module.
    """
    plan = plan if isinstance(plan, Plan) else Plan(plan)
    check_values(model)
    settings = _Settings(selection, target, ridge, seed)
    rules = plan.resolve(model)
    batches = None if inputs is None else as_batches(inputs)
    # Modules that read their weights themselves are taken apart, in copies of the model.
    if not rules.keys() <= dict(model.named_modules()).keys():
        model = split_named(copied(model), rules)
    dense: dict[str, Any] = {name: model.get_submodule(name) for name in rules}
    before, walk = _turns(model, dense, batches)
    holder = nn.ModuleDict({"model": copied(model)})
    bases = SharedBases()
    made: dict[int, PredictedLayer] = {}  # by the dense weight, which several layers may share
    with Progress("compressing", len(rules), show=progress) as shown:
        for number, name in enumerate([*before, *walk]):
            job = _Job(settings, name, rules[name], dense[name], bases)
            data, twin = _Data(), made.get(id(dense[name].weight))
            if batches is not None and twin is None and name in walk:
                changed = number > 0 and target == "dense"
                data = job.observe(holder["model"], model if changed else None, batches)
            elif batches is not None and twin is None and job.needs_inputs:
                data = _Data(job.observe(holder["model"], None, batches).statistics)
            layer, left = job.run(data) if twin is None else (job.follow(twin), 0.0)
            made[id(dense[name].weight)] = layer
            replace_module(holder, holder["model"].get_submodule(name), layer)
            shown.step()
            what = "weights" if data.metric is None else "output"
            shown.say(f"{name}: {left:.2%} of its {what} left")
    return holder["model"]


@dataclass(frozen=True)
class _Settings:
    """How every layer is fitted; the arguments of :func:`compress`."""

    selection: Selection
    target: Target
    ridge: float
    seed: int

    def __post_init__(self) -> None:
        if self.selection not in ("fitted", "plan"):
            raise ValueError(f"selection is {self.selection!r}: take 'fitted' or 'plan'")
        if self.target not in ("dense", "compressed"):
            raise ValueError(f"target is {self.target!r}: take 'dense' or 'compressed'")
        if not (isinstance(self.ridge, (int, float)) and 0 < self.ridge < float("inf")):
            raise ValueError(
                f"ridge is {self.ridge!r}: it must be above 0 and finite, for example 0.001"
            )


@dataclass(frozen=True)
class _Data:
    """What is known of a layer's inputs; with moments and metric V is fitted to them, else to W."""

    statistics: InputStatistics | None = None
    moments: PairedMoments | None = None
    metric: Metric | None = None


@dataclass(frozen=True)
class _Job:
    """One layer's compression."""

    settings: _Settings
    name: str
    rule: Rule
    dense: Any
    bases: SharedBases

    @property
    def needs_inputs(self) -> bool:
        """Whether atoms cannot be made without inputs, as those made from W can."""
        return bool(self.rule.dictionary.needs) and not self.rule.dictionary.from_weight

    def observe(self, model: nn.Module, dense_model: nn.Module | None, batches: list[Any]) -> _Data:
        """Moments and statistics of the layer's inputs; ``dense_model`` where those count too."""
        moments, statistics = moments_and_statistics(
            model,
            self.name,
            batches,
            self.rule.dictionary.needs,
            self.settings.seed,
            centred=self.dense.bias is not None,
            dense_model=dense_model,
            dense_layer=self.dense,
        )
        return _Data(statistics, moments, moments.metric(self.settings.ridge))

    def run(self, data: _Data) -> tuple[PredictedLayer, float]:
        """The fitted layer, and the share of what was to be met that it leaves."""
        try:
            layer, W = self._make(data)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from error
        if layer.atoms.base.is_learned:
            _learn_base(layer, W, data.metric)
        left = layer.fit_filters(W, data.metric)
        if data.moments is not None and layer.bias is not None:
            shift = data.moments.bias_shift(
                layer.check_weight(self.dense.weight), layer.check_weight(layer.weight)
            )
            with torch.no_grad():
                layer.bias.add_(shift.to(layer.bias))
        return layer, left

    def follow(self, twin: PredictedLayer) -> PredictedLayer:
        """The layer of a weight that another one has, which is fitted already."""
        layer = view(self.dense).predict(self.rule, atoms=twin.atoms)
        layer.tie(twin)
        return layer

    def _make(self, data: _Data) -> tuple[PredictedLayer, Tensor]:
        """The layer with V not fitted yet, and the weights that it is to meet."""
        seed = layer_seed(self.settings.seed, self.name)
        seen = view(self.dense)
        weight = seen.filters().detach().to("cpu", torch.float64)
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"{int((~weight.isfinite()).sum())} of its {weight.numel()} weights are NaN or "
                "infinite: load weights that are finite, or leave the layer dense"
            )
        statistics = data.statistics
        if data.moments is not None and data.metric is not None:
            weight = data.moments.target(weight, data.metric)
            if self.rule.dictionary.from_weight:
                C = data.metric.moments.mean(dim=0)
                statistics = InputStatistics(data.moments.n_rows, covariance=C)

        def build(indices: Tensor | None = None) -> Atoms:
            n_visible, n_units = seen.sizes
            generator = torch.Generator().manual_seed(seed)
            return self.rule.build(
                n_visible,
                n_units,
                grid=seen.grid,
                statistics=statistics,
                generator=generator,
                bases=self.bases,
                indices=indices,
                weight=weight.t(),
            )

        layer = seen.predict(self.rule, seed=seed, bases=self.bases, atoms=build())
        if self.settings.selection == "plan" or not self._has_choice(layer.atoms):
            return layer, weight
        base = copy.deepcopy(layer.atoms.base).to("cpu", torch.float64)
        indices = choose_atoms(base, layer.unit_slices(), weight, layer.atoms.n_atoms, data.metric)
        layer = seen.predict(self.rule, seed=seed, bases=self.bases, atoms=build(indices))
        return layer, weight

    def _has_choice(self, atoms: Atoms) -> bool:
        base = atoms.base
        free = self.rule.dictionary.chooses and not base.is_learned
        return free and base.n_base > atoms.n_atoms


def _turns(
    model: nn.Module, layers: Mapping[str, Any], batches: list[Any] | None
) -> tuple[list[str], list[str]]:
    """Layers to fit to W, and layers to fit to their outputs, in the order in which they run.

    To W all without inputs; with inputs those whose inputs are not seen, with what is tied to them,
    and those that do not run. They come first, since their weights change the others' inputs.
    """
    unseen = {id(layer.weight) for layer in layers.values() if view(layer).blindness}
    seen = {name: layer for name, layer in layers.items() if id(layer.weight) not in unseen}
    walk = [] if batches is None else layers_run(model, seen, batches)
    before = [name for name in layers if name not in walk]
    return sorted(before, key=lambda name: view(layers[name]).blindness is not None), walk


@torch.no_grad()
def _learn_base(layer: PredictedLayer, W: Tensor, metric: Metric | None) -> None:
    """The best U of a LowRank dictionary: leading singular vectors of each column's S W."""
    C = None if metric is None else metric.moments.mean(dim=0)
    atoms: Any = layer.atoms.base.atoms
    for indices, units in zip(layer.atoms.indices, layer.unit_slices(), strict=True):
        best = leading_filters(W[units].t(), C)[:, : len(indices)]
        atoms[indices] = best.t().to(atoms)
