"""What a layer is given: moments, statistics and samples of its rows, from batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.inputs.batches import check_finite
from weightcast.inputs.moments import Moments
from weightcast.inputs.replay import Replay
from weightcast.inputs.rows import RowSample, thinned
from weightcast.layers import view

SAMPLE_SIZE = 10_000
"""Rows that a layer's sample has at most."""

MOMENTS = "moments"
"""The need of :class:`Moments`, beside those of dictionaries."""


class Given:
    """Moments of a layer's rows, and those fields of :class:`InputStatistics` that are needed.

    Args:
        needs: names of the fields, and :data:`MOMENTS`.
        generator: of the draw of a sample.
        paired: whether rows come in pairs, of two networks.
        sample_size: rows of a sample.
    """

    def __init__(
        self,
        needs: Collection[str],
        generator: torch.Generator,
        *,
        paired: bool = False,
        sample_size: int = SAMPLE_SIZE,
    ) -> None:
        self.n_rows, self._needs = 0, set(needs)
        self.moments = Moments(paired=paired)
        self._flat, self._squares = Moments(), Moments()
        self._sample = RowSample(sample_size, generator) if "sample" in needs else None

    def update(self, x: Tensor, dense_x: Tensor | None = None) -> None:
        """Take in finite rows, (n_rows, groups, n_visible), of one network or of two."""
        rows = x.flatten(0, 1)
        self.n_rows += len(rows)
        single = x.shape[1] == 1
        if MOMENTS in self._needs or ("covariance" in self._needs and single):
            self.moments.update(x, dense_x)
        if "covariance" in self._needs and not single:
            self._flat.update(rows)
        if "squared_covariance" in self._needs:
            self._squares.update(rows.square())
        if self._sample is not None:
            self._sample.update(rows.to("cpu", torch.float64))

    def statistics(self) -> InputStatistics:
        """The statistics of all rows so far; ValueError if they are fewer than 2."""
        if self.n_rows < 2:
            raise ValueError(
                f"the layer saw {self.n_rows} input row(s); statistics need at least 2: pass more "
                "inputs, or leave this layer dense if the model does not use it"
            )
        rows = self._flat if self._flat.n_rows else self.moments
        return InputStatistics(
            self.n_rows,
            covariance=rows.covariance() if "covariance" in self._needs else None,
            squared_covariance=(
                self._squares.covariance() if "squared_covariance" in self._needs else None
            ),
            sample=self._sample and self._sample.rows,
        )


def rows_given(layer: nn.Module, inputs: list[Tensor], generator: torch.Generator) -> Tensor:
    """A layer's rows at one call, (n_rows, groups, n_visible), on the CPU, thinned if very many.

    A copy, for the network may change its input in place later on. An InputsError where some are
    NaN or infinite.
    """
    seen = view(layer)
    rows = seen.input_rows(*inputs, side_by_side=True).detach()
    rows = check_finite(thinned(rows, generator).to("cpu", copy=True))
    return rows.unflatten(1, (-1, seen.sizes[0]))


def give_rows(
    model: nn.Module, name: str, replay: Replay, take: Callable[[nn.Module, list[Tensor]], None]
) -> None:
    """Run the model over a replay's batches, and give ``take`` a layer's inputs at every call."""

    def taken(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        with naming_layer(name):
            take(layer, inputs)

    with replay.watching(model, [name], taken) as run:
        for number, batch in enumerate(replay.batches):
            run(number, batch)


def collect_statistics(
    model: nn.Module, name: str, replay: Replay, needs: Collection[str], generator: torch.Generator
) -> InputStatistics:
    """Those statistics of one layer's inputs that are needed."""
    given = Given(needs, generator)
    give_rows(model, name, replay, lambda layer, x: given.update(rows_given(layer, x, generator)))
    return given.statistics()


def collect_rows(
    model: nn.Module, name: str, replay: Replay, max_rows: int, generator: torch.Generator
) -> Tensor:
    """At most ``max_rows`` of one layer's rows, drawn uniformly: (n_rows, groups * n_visible).

    They are on the CPU, in the inputs' dtype. A convolution may have groups, and so has an
    attention's packed projection of different queries, keys and values.
    """
    sample = RowSample(max_rows, generator)

    def take(layer: nn.Module, inputs: list[Tensor]) -> None:
        sample.update(view(layer).input_rows(*inputs, side_by_side=True))

    give_rows(model, name, replay, take)
    return sample.rows


@contextmanager
def naming_layer(name: str) -> Iterator[None]:
    """ValueErrors raised within name the layer."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
