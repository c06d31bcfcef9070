"""SafetensorsCheckpointIO and RandomState: a Lightning run that resumes exactly, without pickle.

Needs the package ``pytorch-lightning`` (extra ``train``). A checkpoint's tensors are those of one
safetensors file, under their paths such as ``state_dict/model.hidden1.V``. The rest, dictionaries,
lists and numbers, is JSON in the file's header, where ``{"tensor": name}`` stands for a tensor. So
reading a checkpoint runs no code. Checksums of both are in the header, too.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from weightcast.files import atomic_write, remove_leftovers
from weightcast.integrations.checkpoint_tree import decode, encode, join
from weightcast.storage import FormatError
from weightcast.storage.manifest import text_checksum
from weightcast.storage.state import identity
from weightcast.storage.tensors import check_storable, tensor_checksum

_KIND = "weightcast checkpoint 1"
_RANDOM_STATE = "random_state"  # its entry in a checkpoint
_LARGE = 1 << 18  # bytes of a tensor from which on a thread for its checksum pays


class SafetensorsCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or not there: ``pl.Trainer(plugins=[SafetensorsCheckpointIO()])``.

    They may hold tensors, numbers, text, None, and lists, tuples and dictionaries of these, also
    those of ``collections``, NumPy, named tuples and enumerations: each comes back as what it was.
    Those that Lightning's own plugin has written are read too, by ``torch.load`` with
    ``weights_only=True``.
    """

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint on a local disk, whole or not at all; missing folders are made.

        Raises:
            TypeError: storage options, which are not supported.
            ValueError: the checkpoint holds an object that is no plain data.
        """
        if storage_options is not None:
            raise TypeError("SafetensorsCheckpointIO writes local files: leave storage_options out")
        tensors = _Tensors()
        try:
            tree = json.dumps(encode(checkpoint, (), tensors.add))
        except RecursionError as error:
            raise ValueError("the checkpoint is nested too deeply, or holds itself") from error
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        sums = json.dumps({"tree": text_checksum(tree), "tensors": _checksums(tensors.named)})
        with atomic_write(path) as partial:
            save_file(tensors.named, partial, {"kind": _KIND, "tree": tree, "checksums": sums})

    @override
    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint, its tensors to one device; None is the CPU.

        Raises:
            FormatError: the file is damaged, or no checkpoint.
            ValueError: ``weights_only=False``; this class knows no other way of reading.
        """
        if weights_only is False:
            raise ValueError("SafetensorsCheckpointIO unpickles nothing: weights_only must be True")
        try:
            with open(path, "rb") as file:
                archive = file.read(4) == b"PK\x03\x04"  # as Lightning's own plugin writes them
            if archive:
                return torch.load(path, map_location=map_location or "cpu", weights_only=True)
            tree, tensors = _read(path)
            device = torch.device(map_location or "cpu")
            return decode(tree, {name: tensor.to(device) for name, tensor in tensors.items()})
        except (FileNotFoundError, PermissionError, FormatError):
            raise
        except Exception as error:  # whatever the readers and the data have to say
            raise FormatError(
                f"the checkpoint {path} is damaged: {error}. Take another checkpoint, or start "
                "anew without resuming"
            ) from error

    @override
    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


class RandomState(pl.Callback):
    """Keep the random state of torch, CUDA, NumPy and Python in every checkpoint.

    Each process of data-parallel training has its own. A loader's workers need none: they are
    seeded from torch's whenever the loader is walked through, save ``persistent_workers=True``.
    """

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Gather the states of all processes, (processes, ...) each."""
        device = trainer.strategy.root_device
        states = _read_random_state(device)
        checkpoint[_RANDOM_STATE] = {n: _gather(s.to(device), trainer) for n, s in states.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore this process's state; a ValueError if another number of processes wrote it."""
        states = checkpoint.get(_RANDOM_STATE)
        if states is None:  # a checkpoint of a run without this callback
            return
        if len(states["torch"]) != trainer.world_size:
            raise ValueError(
                f"the checkpoint was written by {len(states['torch'])} processes and this run has "
                f"{trainer.world_size}: resume it with as many"
            )
        own = {name: state[trainer.global_rank] for name, state in states.items()}
        _restore_random_state(own, trainer.strategy.root_device)


@contextmanager
def seeded(seed: int, rank: int, device: torch.device) -> Iterator[None]:
    """Draw what follows from a run's seed, and leave the caller's random state as it was.

    Each process draws numbers of its own, by its rank. A GPU's state is seeded and restored too.
    """
    before = _read_random_state(device)
    torch_seed, numpy_seed, python_seed = np.random.SeedSequence([seed, rank]).generate_state(3)
    torch.manual_seed(int(torch_seed))
    np.random.seed(int(numpy_seed))
    random.seed(int(python_seed))
    try:
        yield
    finally:
        _restore_random_state(before, device)


class _Tensors:
    """The tensors of a checkpoint, each once: tied ones share a name."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}
        self._storages: set[int] = set()

    def add(self, tensor: Tensor, path: tuple[Any, ...]) -> str:
        """Keep a tensor and tell its name."""
        check_storable(f"the checkpoint's {join(path)}", tensor)
        key = identity(tensor)
        if tensor.numel() and key in self._names:
            return self._names[key]
        name = join(path)
        while name in self.named:  # 0 and "0", or a key with a slash
            name += "'"
        held = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        if held.untyped_storage().data_ptr() in self._storages:
            held = held.clone()  # safetensors refuses tensors that share memory
        self._storages.add(held.untyped_storage().data_ptr())
        self.named[name], self._names[key] = held, name
        return name


def _read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Tensor]]:
    """The tree and the tensors of a file, compared with their checksums."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != _KIND:
            raise FormatError(f"{path} holds no training checkpoint of {_KIND!r}")
        # Copies: these tensors lie in the mapped file, at any alignment.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if "checksums" in metadata:  # older files have none
        saved = json.loads(metadata["checksums"])
        if text_checksum(metadata["tree"]) != saved["tree"]:
            raise ValueError("what is beside the tensors was changed after it was saved (checksum)")
        for name, found in _checksums(tensors).items():
            if found != saved["tensors"].get(name):
                raise ValueError(f"{name!r} was changed after it was saved (checksum)")
    return json.loads(metadata["tree"]), tensors


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of all tensors; of several large ones at once, since each takes as long as reading it."""
    with ThreadPoolExecutor() as threads:
        small = {n: t for n, t in tensors.items() if t.nbytes <= _LARGE}
        large = {
            n: threads.submit(tensor_checksum, t) for n, t in tensors.items() if n not in small
        }
        sums = {n: tensor_checksum(t) for n, t in small.items()}
        return sums | {n: running.result() for n, running in large.items()}


def _gather(state: Tensor, trainer: pl.Trainer) -> Tensor:
    """All processes' states, (processes, ...), on the CPU."""
    everyone = [state] * trainer.world_size
    if len(everyone) > 1:
        everyone = [torch.empty_like(state) for _ in everyone]
        torch.distributed.all_gather(everyone, state)
    return torch.stack(everyone).cpu()


def _read_random_state(device: torch.device) -> dict[str, Tensor]:
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


def _restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Undo :func:`_read_random_state`."""
    torch.set_rng_state(states["torch"].clone())
    gauss = float(states["python_gauss"])
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(gauss) else gauss))
    position, has_gauss = states["numpy_position"].tolist()
    key = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, position, has_gauss, float(states["numpy_gauss"])))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].clone(), device)
