"""Batches: shuffled batches of tensors in memory, the same ones for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from weightcast.training.data import Split


class Batches:
    """x[order], y[order] in batches, the order drawn anew from (seed, epoch) for each epoch.

    Indexing tensors in memory takes a tenth of a ``DataLoader``'s time per batch. Batches come in
    lists of several, one list for each of the Trainer's steps. Lightning calls ``set_epoch``
    before each epoch and keeps ``state_dict`` in its checkpoints, so that a run that was stopped
    in the middle of an epoch goes on with the batch that would have come next.

    Args:
        data: x (n, ...) and y (n,), on any device.
        batch_size: images a batch; the last batch of an epoch may be smaller.
        seed: of the orders, 0 or more.
        per_list: batches a list.
    """

    def __init__(self, data: Split, batch_size: int, seed: int, per_list: int = 8) -> None:
        self.x, self.y = data
        self.batch_size = batch_size
        self.seed = seed
        self.per_list = per_list
        self.sampler = self  # where Lightning looks for `set_epoch`
        self._epoch = self._next = self._first = 0

    @property
    def n_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.y) // self.batch_size)

    def __len__(self) -> int:
        """Lists of an epoch."""
        return -(-self.n_batches // self.per_list)

    def __iter__(self) -> Iterator[list[Split]]:
        first, self._first = self._first, 0
        lists = self.order().to(self.y.device).split(self.batch_size * self.per_list)
        for number, images in enumerate(lists[first:], start=first):
            self._next = number + 1
            yield [(self.x[batch], self.y[batch]) for batch in images.split(self.batch_size)]

    def order(self) -> Tensor:
        """The epoch's order of the images, (n,) int64."""
        entropy = np.random.SeedSequence([self.seed, self._epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(entropy[0]))
        return torch.randperm(len(self.y), generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch: which list comes next."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position; the end of an epoch is the start of the next one."""
        self._first = state["next"] % len(self)
