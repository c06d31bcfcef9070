"""Statistics and samples of a layer's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import InputStatistics
from weightcast.dictionaries.site import Need
from weightcast.inputs.batches import check_finite
from weightcast.inputs.hooks import watch
from weightcast.layers import view

MAX_ROWS_PER_CALL = 16_384
"""A convolution has one row per output position; more rows than these are thinned at random."""


class StatisticsAccumulator:
    """Covariances and a uniform sample of rows, from one batch after another.

    Args:
        needs: which statistics to keep.
        sample_size: rows of the sample.
        generator: a CPU generator for the sample.
    """

    def __init__(self, needs: Sequence[Need], sample_size: int, generator: torch.Generator) -> None:
        self.generator, self.sample_size = generator, sample_size
        self.n_rows = 0
        self.moments = {"covariance": _Moments(), "squared_covariance": _Moments()}
        self.moments = {name: m for name, m in self.moments.items() if name in needs}
        self.sample: Tensor | None = None
        self.keys = torch.empty(0, dtype=torch.float64)
        self.keep_sample = "sample" in needs

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, n_visible).

        Raises:
            ValueError: NaN or infinite rows.
        """
        rows = rows.detach()
        if len(rows) == 0:
            return
        rows = check_finite(thinned(rows, self.generator).to("cpu", torch.float64))
        self.n_rows += len(rows)
        if "covariance" in self.moments:
            self.moments["covariance"].update(rows)
        if "squared_covariance" in self.moments:
            self.moments["squared_covariance"].update(rows.square())
        if self.keep_sample:
            self._update_sample(rows)

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
        covariances = {name: m.covariance(self.n_rows) for name, m in self.moments.items()}
        return InputStatistics(self.n_rows, sample=self.sample, **covariances)

    def _update_sample(self, rows: Tensor) -> None:
        """Every row draws a key; the rows with the largest keys are a uniform sample."""
        keys = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        if self.sample is not None:
            rows, keys = torch.cat([self.sample, rows]), torch.cat([self.keys, keys])
        kept = keys.topk(min(self.sample_size, len(keys))).indices.sort().values
        self.sample, self.keys = rows[kept], keys[kept]


def thinned(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows, or as many of them as one call may give, drawn at random."""
    if len(rows) <= MAX_ROWS_PER_CALL:
        return rows
    chosen = torch.randperm(len(rows), generator=generator)[:MAX_ROWS_PER_CALL]
    return rows[chosen.to(rows.device)]


class _Moments:
    """Mean and centred second moment, merged batch by batch (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())

    def update(self, rows: Tensor) -> None:
        n, mean = len(rows), rows.mean(dim=0)
        centred = rows - mean
        scatter = centred.t() @ centred
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        shift, total = mean - self.mean, self.n + n
        self.scatter += scatter + torch.outer(shift, shift) * (self.n * n / total)
        self.mean += shift * (n / total)
        self.n = total

    def covariance(self, n_rows: int) -> Tensor:
        K = self.scatter / (n_rows - 1)
        return (K + K.t()) / 2


def collect_statistics(
    model: nn.Module,
    layer: nn.Module,
    inputs: Iterable[Any],
    needs: Sequence[Need],
    *,
    sample_size: int = 10_000,
    generator: torch.Generator | None = None,
) -> InputStatistics:
    """Run the model over the inputs and gather statistics of what one dense layer is given.

    Args:
        model: run in evaluation mode and without gradients, its mode restored afterwards.
        layer: a dense or predicted layer inside the model.
        inputs: batches: a tensor, a sequence whose first entry is the input, or a mapping of
            keyword arguments.
        needs: which statistics.
        sample_size: rows of the sample, where one is needed.
        generator: a CPU generator for the sample; None takes seed 0.

    Raises:
        ValueError: NaN or infinite inputs, or too few rows.
    """
    generator = generator or torch.Generator().manual_seed(0)
    accumulator = StatisticsAccumulator(needs, sample_size, generator)

    def take(module: nn.Module, *inputs: Tensor) -> None:
        accumulator.update(view(module).input_rows(*inputs))

    watch(model, layer, inputs, take)
    return accumulator.result()


def collect_rows(
    model: nn.Module,
    layer: nn.Module,
    inputs: Iterable[Any],
    max_rows: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run the model over the inputs and keep the rows of one layer, or a uniform sample of them.

    Args:
        model: run in evaluation mode and without gradients, its mode restored afterwards.
        layer: a dense or predicted layer inside the model.
        inputs: batches, as for :func:`collect_statistics`.
        max_rows: how many rows to keep at most; fewer are kept in the order in which they came.
        generator: a CPU generator for the sample; None takes seed 0.

    Returns:
        (n_rows, groups * n_visible) on the CPU, in the inputs' dtype; groups is 1 but for
        convolutions with groups and an attention's projection of different queries, keys, values.
    """
    sample = RowSample(max_rows, generator or torch.Generator().manual_seed(0))

    def take(module: nn.Module, *inputs: Tensor) -> None:
        sample.update(view(module).input_rows(*inputs, side_by_side=True))

    watch(model, layer, inputs, take)
    return sample.rows


class RowSample:
    """A uniform sample of rows without replacement, in memory that never exceeds its size.

    Args:
        size: rows to keep at most.
        generator: a CPU generator.

    References: Vitter 1985, algorithm R.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.n_seen = 0
        self._kept = torch.empty(0, 0)

    @property
    def rows(self) -> Tensor:
        """(min(size, n_seen), n_visible): the sample so far."""
        return self._kept[: self.n_seen]

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, n_visible)."""
        if self.n_seen == 0:
            self._kept = torch.empty(self.size, rows.shape[1], dtype=rows.dtype)
        numbers = torch.arange(self.n_seen, self.n_seen + len(rows))
        self.n_seen += len(rows)
        # Row i takes place i while there is room; later a place from 0 to i, if there is one.
        draws = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        places = torch.where(numbers < self.size, numbers, (draws * (numbers + 1)).long())
        taken = (places < self.size).nonzero().flatten()
        # Of two rows that draw the same place the later one stays.
        last = dict(zip(places[taken].tolist(), taken.tolist(), strict=True))
        chosen = torch.tensor(list(last.values()), dtype=torch.int64)
        self._kept[torch.tensor(list(last), dtype=torch.int64)] = rows.detach()[
            chosen.to(rows.device)
        ].to("cpu")
