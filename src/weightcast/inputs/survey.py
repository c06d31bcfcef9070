"""survey: the order in which a model calls its layers, how often, and which have one input."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from weightcast.inputs.batches import call
from weightcast.inputs.hooks import observing
from weightcast.layers import view


@dataclass
class Survey:
    """What one run over all batches tells of some layers.

    Args:
        order: the layers that the batches reach, in the order in which the model runs them. A
            single row, which is all that an expert of a mixture may get, has no statistics: layers
            with fewer than 2 rows count as not reached, unless all layers have so few.
        calls: how often a layer is called on a batch, where that is the same for all batches.
        same_rows: each layer, to the first one that makes the same rows of the same input.
        sizes: the sum of the absolute values of a layer's inputs on the first batch, to compare.
    """

    order: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    same_rows: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)

    def among(self, names: Container[str]) -> Survey:
        """What it tells of some of the layers."""
        order, leaders = [name for name in self.order if name in names], dict[str, str]()
        same = {name: leaders.setdefault(self.same_rows[name], name) for name in order}
        calls = {name: self.calls[name] for name in order if name in self.calls}
        return Survey(order, calls, same, self.sizes)


def survey(model: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> Survey:
    """Run a model over all batches, undisturbed, and note how it calls the named layers."""
    found = _Notes()
    with observing(model, names, found.take):
        for batch in batches:
            found.start()
            call(model, batch)
            found.end()
    return found.result()


def sum_of_inputs(inputs: Iterable[Tensor]) -> float:
    """The sum of the absolute values of some tensors."""
    return sum(float(x.detach().abs().sum()) for x in inputs)


class _Notes:
    """What is noted from call to call."""

    def __init__(self) -> None:
        self.survey, self.n_rows = Survey(), Counter[str]()
        self.counts: list[Counter[str]] = []
        self.inputs: dict[Any, tuple[str, list[Any]]] = {}
        self.leaders: dict[str, set[str]] = {}

    def start(self) -> None:
        self.counts.append(Counter())
        self.inputs.clear()

    def take(self, name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        if self.n_rows[name] < 2:
            self.n_rows[name] += len(view(layer).input_rows(*inputs))
        self.counts[-1][name] += 1
        if len(self.counts) == 1:
            sizes = self.survey.sizes
            sizes[name] = sizes.get(name, 0.0) + sum_of_inputs(inputs)
        # Tensors are the same where they are one object that was not changed in between.
        key = view(layer).rows_key, *((id(x), _version(x)) for x in inputs)
        leader, alive = self.inputs.get(key, (name, []))
        if any(reference() is not x for reference, x in zip(alive, inputs, strict=False)):
            leader = name
        self.inputs[key] = leader, [weakref.ref(x) for x in inputs]
        self.leaders.setdefault(name, set()).add(leader)

    def end(self) -> None:
        # A layer that is new in this batch goes right after the one that ran before it.
        order, place = self.survey.order, 0
        for name in self.counts[-1]:
            if name not in order:
                order.insert(place, name)
            place = order.index(name) + 1

    def result(self) -> Survey:
        result = self.survey
        result.order = [name for name in result.order if self.n_rows[name] > 1] or result.order
        for name in result.order:
            counts = {one[name] for one in self.counts}
            if len(counts) == 1:
                result.calls[name] = counts.pop()
            leaders = self.leaders[name]
            once = result.calls.get(name) == 1 and len(leaders) == 1
            leader = next(iter(leaders)) if once else name
            result.same_rows[name] = leader if result.calls.get(leader) == 1 else name
        return result


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
