"""shrink: the smallest compressed network whose metric is still good enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import nn

from weightcast.inputs.batches import as_batches
from weightcast.inputs.progress import Progress
from weightcast.layers.counts import ledger
from weightcast.layers.models import Model, check_values
from weightcast.plan.suggest import offers_for
from weightcast.serialization import aligned
from weightcast.transform.compress import Fitting, fit_layers

LARGEST = 0.95
"""Share of the network's numbers beyond which to compress saves nothing worth a step."""


CLOSE = 0.004
"""A step in the share of the numbers that is worth no evaluation."""


@dataclass(frozen=True)
class ShrinkTrial:
    """One network that was tried.

    Args:
        budget: share of the dense network's numbers that it may store; 1 for the dense network.
        stored: numbers that it stores.
        share: of those that the dense network stores.
        metric: what ``evaluate`` returned.
        holds: whether that is within the tolerance.
        seconds: that fitting and evaluation took.
    """

    budget: float
    stored: int
    share: float
    metric: float
    holds: bool
    seconds: float


def shrink(
    model: Model,
    inputs: Any,
    evaluate: Callable[[Any], float],
    tolerance: float = 0.01,
    *,
    higher_is_better: bool = False,
    evaluations: int = 8,
    ridge: float | None = None,
    seed: int = 0,
    callback: Callable[[ShrinkTrial], None] | None = None,
    progress: bool = True,
) -> Model:
    """Compress a network as far as its metric allows, by bisection over budgets.

    The layers' inputs are seen once, in the dense network, and every dictionary is compared once
    for each layer. After that the model does not run but in ``evaluate``: each budget is shared out
    as ``suggest`` does with ``count="stored"``, and V fitted from the moments that are kept.

    Cost: each block runs a few times over the inputs, whatever the number of evaluations; each of
    these solves the least squares of every layer. The moments of all layers are kept, n_visible^2
    numbers each, up to 64 MiB in memory and more in temporary files, and two compressed networks.

    Args:
        model: trained, dense; it is left as it is.
        inputs: example batches as for ``compress``.
        evaluate: a function of a model that returns its error, or another number where less is
            better: on data that neither training nor ``inputs`` have seen.
        tolerance: how much worse than the dense network's the metric may be, in its own unit.
        higher_is_better: for a metric such as accuracy.
        evaluations: of compressed networks, at most; 2 or more.
        ridge: as for ``compress``.
        seed: of all draws.
        callback: called with every :class:`ShrinkTrial`, the dense network's first.
        progress: whether to show a bar on a terminal, lines elsewhere, and the table at the end.

    Returns:
        The smallest network tried whose metric is good enough.

    Raises:
        ValueError: a metric of the dense network that is no finite number, or not even a network
            of 95 % of the numbers is good enough; arguments that cannot be.
    """
    if not (tolerance >= 0 and math.isfinite(tolerance)) or evaluations < 2:
        raise ValueError(
            f"tolerance is {tolerance} and evaluations {evaluations}: give a tolerance of 0 or "
            "more, and 2 evaluations or more"
        )
    check_values(model)
    batches = as_batches(inputs, progress=progress)
    sign = -1.0 if higher_is_better else 1.0
    search = _Search(model, evaluate, tolerance, sign, callback)
    search.dense()
    with ExitStack() as stack:
        how: dict[str, Any] = {"count": "stored", "seed": seed, "progress": progress}
        offers, walk = offers_for(model, batches, stack, remember=True, **how)
        fitting = Fitting(refresh="never", ridge=ridge, seed=seed)
        shown = stack.enter_context(Progress("shrinking", evaluations, show=progress))

        def compressed(budget: float) -> Any:
            quiet = Progress("", 1, show=False)
            rules = offers.for_budget(budget).resolve(model)
            return fit_layers(model, rules, fitting, walk, quiet)

        search.bisect(compressed, offers.least_share, evaluations, shown)
    if progress:
        shown.say(f"tried:\n{trials_table(search.trials)}")
    return search.result()


@dataclass
class _Search:
    """What was tried so far."""

    model: nn.Module
    evaluate: Callable[[Any], float]
    tolerance: float
    sign: float
    callback: Callable[[ShrinkTrial], None] | None

    def __post_init__(self) -> None:
        self.trials: list[ShrinkTrial] = []
        self.best: Any = None

    def dense(self) -> None:
        """Measure the network that all others are compared with."""
        start = time.perf_counter()
        metric = float(self.evaluate(self.model))
        if not math.isfinite(metric):
            raise ValueError(
                f"evaluate gives {metric} for the dense network: it must return a finite number"
            )
        self.n_dense = ledger(self.model).total.stored
        self._note(ShrinkTrial(1.0, self.n_dense, 1.0, metric, True, time.perf_counter() - start))

    def bisect(
        self, compressed: Callable[[float], Any], low: float, evaluations: int, shown: Progress
    ) -> None:
        """Halve the range of budgets, the largest of which is tried last where none was enough."""
        high = LARGEST
        for left in range(evaluations - 1, -1, -1):
            if high - low < CLOSE and self.best is not None:
                return
            middle = (low + high) / 2 if left or self.best is not None else LARGEST
            if self.try_one(middle, compressed):
                high = middle
            else:
                low = middle
            shown.step()
            shown.say(self.last())

    def try_one(self, budget: float, compressed: Callable[[float], Any]) -> bool:
        """Measure a network of this budget; whether it is good enough."""
        start = time.perf_counter()
        small = compressed(budget)
        metric, stored = float(self.evaluate(small)), ledger(small).total.stored
        # Not "worse than allowed", which a metric that is no number never is.
        holds = self.sign * (metric - self.trials[0].metric) <= self.tolerance
        seconds = time.perf_counter() - start
        self._note(ShrinkTrial(budget, stored, stored / self.n_dense, metric, holds, seconds))
        if smallest(self.trials) is self.trials[-1]:
            self.best = small
        return holds

    def last(self) -> str:
        """The last trial in words."""
        trial = self.trials[-1]
        good = "good enough" if trial.holds else "not good enough"
        return f"{trial.share:.1%} of the numbers: {trial.metric:.6g}, {good}"

    def result(self) -> Any:
        """The smallest that is good enough; a ValueError if none is."""
        if self.best is not None:
            return self.best
        largest = max(self.trials[1:], key=lambda trial: trial.budget)
        raise ValueError(
            f"no network is good enough: the dense one has {self.trials[0].metric:.6g}, the one of "
            f"{largest.share:.1%} of its numbers {largest.metric:.6g}, and the tolerance is "
            f"{self.tolerance}: raise it, pass more inputs, or distil afterwards"
        )

    def _note(self, trial: ShrinkTrial) -> None:
        self.trials.append(trial)
        if self.callback is not None:
            self.callback(trial)


def smallest(trials: Sequence[ShrinkTrial]) -> ShrinkTrial | None:
    """The smallest compressed network that is good enough; None if none is."""
    good = [trial for trial in trials[1:] if trial.holds]
    return min(good, key=lambda trial: trial.stored, default=None)


def trials_table(trials: Sequence[ShrinkTrial]) -> str:
    """The trials, smallest first, with a star at the one that was chosen."""
    best = smallest(trials)
    lines = [("", "stored", "share", "metric", "good enough", "seconds")]
    for trial in sorted(trials, key=lambda trial: trial.stored):
        lines.append(
            (
                "*" if trial is best else "", f"{trial.stored:,}", f"{trial.share:.1%}",
                f"{trial.metric:.6g}", "yes" if trial.holds else "no", f"{trial.seconds:.1f}",
            )
        )  # fmt: skip
    return aligned(lines, n_names=1)
