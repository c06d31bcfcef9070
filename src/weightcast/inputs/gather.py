"""Statistics, moments and samples of the rows that layers are given, from example inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.inputs.batches import InputsError, call, check_finite
from weightcast.inputs.hooks import observing
from weightcast.inputs.moments import Moments
from weightcast.inputs.rows import RowSample, thinned
from weightcast.layers import view
from weightcast.layers.rule import layer_seed

SAMPLE_SIZE = 10_000
"""Rows that a layer's sample has at most."""


class StatisticsAccumulator:
    """Covariances and a uniform sample of rows, from one batch after another.

    Args:
        needs: which statistics to keep, by the fields of :class:`InputStatistics`.
        sample_size: rows of the sample.
        generator: a CPU generator for the sample.
    """

    def __init__(
        self, needs: Collection[str], sample_size: int, generator: torch.Generator
    ) -> None:
        self.generator, self.n_rows = generator, 0
        known = ("covariance", "squared_covariance")
        self.moments = {name: Moments() for name in known if name in needs}
        self.sample = RowSample(sample_size, generator) if "sample" in needs else None

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, n_visible).

        Raises:
            ValueError: NaN or infinite rows.
        """
        rows = thinned(rows.detach(), self.generator).to("cpu", torch.float64)
        self.n_rows += len(check_finite(rows))
        for name, moments in self.moments.items():
            moments.update(rows if name == "covariance" else rows.square())
        if self.sample is not None:
            self.sample.update(rows)

    def result(self) -> InputStatistics:
        """The statistics of all rows so far.

        Raises:
            ValueError: fewer than 2 rows, which have no covariance.
        """
        if self.n_rows < 2:
            raise ValueError(
                f"the layer saw {self.n_rows} input row(s); statistics need at least 2: pass more "
                "inputs, or leave this layer dense if the model does not use it"
            )
        sample = None if self.sample is None else self.sample.rows
        covariances = {name: moments.covariance() for name, moments in self.moments.items()}
        return InputStatistics(self.n_rows, sample=sample, **covariances)


def give_rows(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    take: Callable[[str, Tensor], None],
    *,
    side_by_side: bool = False,
) -> None:
    """Run a model over batches once, and give ``take`` the rows of every call of some layers.

    Args:
        model: run undisturbed.
        names: of dense or predicted layers inside it, as ``convertible_layers`` has them.
        batches: a tensor, a sequence whose first entry is the input, or a mapping of keywords each.
        take: called with a layer's name and (n_rows, n_visible).
        side_by_side: put the rows of one position's groups into one row.
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
    """Statistics of what one layer of a model is given, as :class:`StatisticsAccumulator` has them.

    Raises:
        ValueError: NaN or infinite inputs, or too few rows.
    """
    generator = generator or torch.Generator().manual_seed(0)
    accumulator = StatisticsAccumulator(needs, sample_size, generator)
    give_rows(model, [name], batches, lambda _, rows: accumulator.update(rows))
    return accumulator.result()


def collect_rows(
    model: nn.Module, name: str, batches: Iterable[Any], max_rows: int, generator: torch.Generator
) -> Tensor:
    """The rows of one layer of a model, or a uniform sample of ``max_rows`` of them.

    Returns:
        (n_rows, groups * n_visible) on the CPU, in the inputs' dtype; groups is 1 but for
        convolutions with groups and an attention's projection of different queries, keys, values.
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
    """Moments and statistics of some layers' inputs, all from one pass.

    It holds second moments of all these layers, and their rows on one batch, at once.

    Args:
        model: that is run over the batches, undisturbed.
        needs: names of dense or predicted layers in it, and which statistics each is for.
        batches: example inputs.
        seed: of the draw of rows where there are very many; a layer's depends on its name too.
        uncentred: names of those whose second moments are not covariances: layers without a bias.
        dense_model: another model, in which the inputs of layers with the same names count too.
            Where the two give a layer unequally many rows, as experts of a mixture may get, those
            of ``model`` stand for the other's.

    Raises:
        ValueError: inputs that give no statistics, naming the layer, or on which a model fails.
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
                with _naming(name):
                    statistics[name].update(x.flatten(0, 1))
    result = {}
    for name, accumulator in statistics.items():
        with _naming(name):
            result[name] = moments[name], accumulator.result()
    return result


def _rows_of(model: nn.Module, batch: Any, draws: Mapping[str, int]) -> dict[str, list[Tensor]]:
    """What layers are given on one batch, by name, (n_rows, groups, n_visible) at each call.

    Args:
        model: that is run.
        batch: of inputs.
        draws: names of layers, and seeds of the draws where there are very many rows.
    """
    generators = {name: torch.Generator().manual_seed(seed) for name, seed in draws.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in draws}

    def take(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        seen = view(layer)
        with _naming(name):
            rows = seen.input_rows(*inputs, side_by_side=True).detach()
            # A copy: the network may change its input in place later on.
            rows = check_finite(thinned(rows, generators[name]).to("cpu", copy=True))
            found[name].append(rows.unflatten(1, (-1, seen.sizes[0])))

    with observing(model, draws, take):
        call(model, batch)
    return found


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Within, errors name the layer."""
    try:
        yield
    except ValueError as error:
        raise InputsError(f"layer {name!r}: {error}") from error
