"""The global random state: seeded for a run, and kept in its checkpoints by RandomState."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

_KEY = "random_state"


class RandomState(pl.Callback):
    """Keep the random state of torch, CUDA, NumPy and Python in every checkpoint.

    With data-parallel training each process has a random state of its own; the checkpoint holds
    all of them. A loader's worker processes need none: they are seeded from torch's state each time
    the loader is walked through (but not with ``persistent_workers=True``).
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Gather the states of all processes, (processes, ...) each."""
        device, processes = trainer.strategy.root_device, trainer.world_size
        states = _read(device)
        checkpoint[_KEY] = {name: _gather(s.to(device), processes) for name, s in states.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put this process into the state that it had.

        Raises:
            ValueError: another number of processes wrote the checkpoint.
        """
        states = checkpoint.get(_KEY)
        if states is None:  # a checkpoint of a run without this callback
            return
        processes = len(states["torch"])
        if processes != trainer.world_size:
            raise ValueError(
                f"the checkpoint was written by {processes} processes and this run has "
                f"{trainer.world_size}: resume it with as many"
            )
        own = {name: state[trainer.global_rank] for name, state in states.items()}
        _restore(own, trainer.strategy.root_device)


@contextmanager
def seeded(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """Draw what follows from a seed, and leave the caller's random state as it was.

    Args:
        seed: of the run.
        rank: of the process, each of which draws its own numbers.
        device: a GPU's random state is seeded and restored too.
    """
    before = _read(device)
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence([seed, rank]).generate_state(3)
    torch.manual_seed(int(torch_seed))
    np.random.seed(int(numpy_seed))
    random.seed(int(python_seed))
    try:
        yield
    finally:
        _restore(before, device)


def _gather(state: Tensor, processes: int) -> Tensor:
    """All processes' states, (processes, ...), on the CPU."""
    everyone = [torch.empty_like(state) for _ in range(processes)] if processes > 1 else [state]
    if processes > 1:
        torch.distributed.all_gather(everyone, state)
    return torch.stack(everyone).cpu()


def _read(device: torch.device) -> dict[str, Tensor]:
    """This process's random state as tensors."""
    _, words, gauss = random.getstate()
    _, key, position, has_gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(key, dtype=np.int64)),
        "numpy_position": torch.tensor([int(position), int(has_gauss)]),
        "numpy_gauss": torch.tensor(float(cached), dtype=torch.float64),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore(states: dict[str, Tensor], device: torch.device) -> None:
    """Undo :func:`_read`."""
    torch.set_rng_state(states["torch"].clone())
    gauss = float(states["python_gauss"])
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(gauss) else gauss))
    position, has_gauss = states["numpy_position"].tolist()
    key = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, position, has_gauss, float(states["numpy_gauss"])))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
