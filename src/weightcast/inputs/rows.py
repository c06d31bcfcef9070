"""RowSample: a uniform sample of rows."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ROWS_PER_CALL = 16_384
"""A convolution has one row per output position; more rows than these are thinned at random."""


class RowSample:
    """A uniform sample of at most ``size`` rows without replacement; no other row is held.

    Fewer rows are kept in the order in which they came.

    References: Vitter 1985, algorithm R.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        self.n_seen = 0
        self._kept = torch.empty(0, 0)

    @property
    def rows(self) -> Tensor:
        """(min(size, n_seen), ...): the sample so far, on the CPU."""
        return self._kept[: self.n_seen]

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n_rows, ...); the sample has the dtype of the first."""
        if self.n_seen == 0:
            self._kept = torch.empty(self.size, *rows.shape[1:], dtype=rows.dtype)
        numbers = torch.arange(self.n_seen, self.n_seen + len(rows))
        self.n_seen += len(rows)
        # Row i takes place i while there is room; later a place from 0 to i, if there is one.
        draws = torch.rand(len(rows), dtype=torch.float64, generator=self.generator)
        places = torch.where(numbers < self.size, numbers, (draws * (numbers + 1)).long())
        taken = (places < self.size).nonzero().flatten()
        # Of two rows that draw the same place the later one stays.
        last = torch.full((self.size,), -1).scatter_reduce(0, places[taken], taken, "amax")
        filled = (last >= 0).nonzero().flatten()
        self._kept[filled] = rows.detach()[last[filled].to(rows.device)].to("cpu")


def thinned(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows, or as many of them as one call may give, drawn at random."""
    if len(rows) <= MAX_ROWS_PER_CALL:
        return rows
    sample = RowSample(MAX_ROWS_PER_CALL, generator)
    sample.update(rows)
    return sample.rows
