"""Batches: shuffled batches of tensors in memory, the same ones for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from weightcast_lab.data.images import Split


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
        workers: processes that put the lists together; 0 does it here, which is faster for tensors
            in memory. The batches are the same.
        rank: of this process among those that train together.
        processes: how many train together. Each takes an equal share of every batch; the last batch
            of an epoch is filled up with some of its images where it cannot be shared equally.
    """

    def __init__(
        self,
        data: Split,
        batch_size: int,
        seed: int,
        per_list: int = 8,
        *,
        workers: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.x, self.y = data
        self.batch_size = batch_size
        self.seed = seed
        self.per_list = per_list
        self.workers = workers
        self.rank = rank
        self.processes = processes
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
        for number, batches in enumerate(self._read(lists[first:]), start=first):
            self._next = number + 1
            yield batches

    def __getitem__(self, images: Tensor) -> list[Split]:
        """The batches of a list, this process's share of each."""
        batches = map(self._share, images.split(self.batch_size))
        return [(self.x[batch], self.y[batch]) for batch in batches]

    def _read(self, lists: Sequence[Tensor]) -> Iterator[list[Split]]:
        if not self.workers:
            return map(self.__getitem__, lists)
        # A generator of its own: the loader would draw its workers' seeds from the global one.
        data: Any = self  # a map from lists of images to their batches
        options = {"num_workers": self.workers, "generator": torch.Generator()}
        return iter(DataLoader(data, batch_size=None, sampler=lists, **options))

    def _share(self, batch: Tensor) -> Tensor:
        if self.processes == 1:
            return batch
        filled = torch.arange(-len(batch) % self.processes + len(batch), device=batch.device)
        return batch[filled % len(batch)][self.rank :: self.processes]

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
