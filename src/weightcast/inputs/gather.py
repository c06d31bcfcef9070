"""Statistics, moments and samples of the inputs of a model's layers, from example inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.inputs.batches import call, check_finite
from weightcast.inputs.hooks import observing
from weightcast.inputs.moments import Moments
from weightcast.inputs.rows import RowSample, thinned
from weightcast.layers import view
from weightcast.layers.rule import layer_seed

SAMPLE_SIZE = 10_000
"""Rows that a layer's sample has at most."""


class StatisticsAccumulator:
    """Those fields of :class:`InputStatistics` that ``needs`` names, from batch after batch."""

    def __init__(
        self, needs: Collection[str], sample_size: int, generator: torch.Generator
    ) -> None:
        self.generator, self.n_rows = generator, 0
        known = ("covariance", "squared_covariance")
        self.moments = {name: Moments() for name in known if name in needs}
        self.sample = RowSample(sample_size, generator) if "sample" in needs else None

    def update(self, rows: Tensor) -> None:
        """Take in finite rows, (n_rows, n_visible)."""
        rows = thinned(rows.detach(), self.generator).to("cpu", torch.float64)
        self.n_rows += len(check_finite(rows))
        for name, moments in self.moments.items():
            moments.update(rows if name == "covariance" else rows.square())
        if self.sample is not None:
            self.sample.update(rows)

    def result(self) -> InputStatistics:
        """The statistics of all rows so far; ValueError if they are fewer than 2."""
        if self.n_rows < 2:
            raise ValueError(
                f"the layer saw {self.n_rows} input row(s); statistics need at least 2: pass more "
                "inputs, or leave this layer dense if the model does not use it"
            )
        covariances = {name: moments.covariance() for name, moments in self.moments.items()}
        return InputStatistics(self.n_rows, sample=self.sample and self.sample.rows, **covariances)


def give_rows(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    take: Callable[[str, Tensor], None],
    *,
    side_by_side: bool = False,
) -> None:
    """Run the model over the batches, and give ``take`` each named layer's rows at every call.

    Rows are (n_rows, n_visible); ``side_by_side`` joins the groups of a position, as in
    :meth:`~weightcast.layers.View.input_rows`.
    """

    def given(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        take(name, view(layer).input_rows(*inputs, side_by_side=side_by_side))

    with observing(model, names, given):
        for batch in batches:
            call(model, batch)


def collect_statistics(
    model: nn.Module,
    name: str,
    batches: Iterable[Any],
    needs: Collection[str],
    *,
    sample_size: int = SAMPLE_SIZE,
    generator: torch.Generator | None = None,
) -> InputStatistics:
    """Statistics of one layer's inputs, as :class:`StatisticsAccumulator` computes them."""
    generator = generator or torch.Generator().manual_seed(0)
    accumulator = StatisticsAccumulator(needs, sample_size, generator)
    give_rows(model, [name], batches, lambda _, rows: accumulator.update(rows))
    return accumulator.result()


def collect_rows(
    model: nn.Module, name: str, batches: Iterable[Any], max_rows: int, generator: torch.Generator
) -> Tensor:
    """At most ``max_rows`` of one layer's rows, drawn uniformly: (n_rows, groups * n_visible).

    They are on the CPU, in the inputs' dtype. A convolution may have groups, and so has an
    attention's packed projection of different queries, keys and values.
    """
    sample = RowSample(max_rows, generator)
    give_rows(model, [name], batches, lambda _, rows: sample.update(rows), side_by_side=True)
    return sample.rows


def moments_and_statistics(
    model: nn.Module,
    needs: Mapping[str, Collection[str]],
    batches: Iterable[Any],
    seed: int,
    *,
    uncentred: Collection[str] = (),
    dense_model: nn.Module | None = None,
) -> dict[str, tuple[Moments, InputStatistics]]:
    """Moments and statistics of some layers' inputs, all from one pass over the batches.

    It holds second moments of all these layers, and their rows on one batch, at once.

    Args:
        model: run undisturbed.
        needs: which statistics each layer's dictionary needs, by the layer's name.
        batches: example inputs.
        seed: of the draw of rows where there are very many; a layer's depends on its name too.
        uncentred: layers whose second moments are not covariances: those without a bias.
        dense_model: gives the x~ of :class:`Moments`. Where it gives a layer another number of
            rows, as it may an expert of a mixture, those of ``model`` stand for x~ too.
    """
    seeds = {name: layer_seed(seed, name) for name in needs}
    paired = dense_model is not None
    moments = {name: Moments(centred=name not in uncentred, paired=paired) for name in needs}
    statistics = {
        name: StatisticsAccumulator(n, SAMPLE_SIZE, torch.Generator().manual_seed(seeds[name]))
        for name, n in needs.items()
    }
    for number, batch in enumerate(batches):
        draws = {name: layer_seed(own, f"batch {number}") for name, own in seeds.items()}
        own = _rows_of(model, batch, draws)
        other = own if dense_model is None else _rows_of(dense_model, batch, draws)
        for name, found in own.items():
            alike = [rows.shape for rows in found] == [rows.shape for rows in other[name]]
            for x, dense_x in zip(found, other[name] if alike else found, strict=True):
                moments[name].update(x, dense_x)
                with naming_layer(name):
                    statistics[name].update(x.flatten(0, 1))
    result = {}
    for name, accumulator in statistics.items():
        with naming_layer(name):
            result[name] = moments[name], accumulator.result()
    return result


def _rows_of(model: nn.Module, batch: Any, draws: Mapping[str, int]) -> dict[str, list[Tensor]]:
    """The layers' rows on one batch, (n_rows, groups, n_visible) at each call.

    ``draws`` has a seed for each layer, for the draw of rows where there are very many.
    """
    generators = {name: torch.Generator().manual_seed(seed) for name, seed in draws.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in draws}

    def take(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        seen = view(layer)
        with naming_layer(name):
            rows = seen.input_rows(*inputs, side_by_side=True).detach()
            # A copy: the network may change its input in place later on.
            rows = check_finite(thinned(rows, generators[name]).to("cpu", copy=True))
            found[name].append(rows.unflatten(1, (-1, seen.sizes[0])))

    with observing(model, draws, take):
        call(model, batch)
    return found


@contextmanager
def naming_layer(name: str) -> Iterator[None]:
    """ValueErrors raised within name the layer."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
