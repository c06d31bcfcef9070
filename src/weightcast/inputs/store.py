"""Store: tensors that are kept for later, in memory or, past some bytes, on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from weightcast.inputs.batches import InputsError

KEPT_BYTES = 2**26
"""Bytes of tensors that are kept in memory; more are kept in temporary files."""


class Store:
    """Tensors in memory, and past some bytes of them in temporary files, one for each owner.

    The files have no name, so that none is left whatever happens to the process.
    """

    def __init__(self, kept_bytes: int) -> None:
        self.kept_bytes, self._held = kept_bytes, 0
        self._in_memory: dict[object, int] = {}
        self._files: dict[object, BinaryIO] = {}

    def put(self, tensor: Tensor, owner: object) -> Callable[[], Tensor]:
        """Keep a tensor; what is returned gives copies that may be written into.

        InputsError where a disk has no room for it.
        """
        device, own = tensor.device, tensor.to("cpu")
        if own.untyped_storage().nbytes() > 2 * own.nbytes:
            own = own.clone(memory_format=torch.contiguous_format)
        if self._held + own.nbytes > self.kept_bytes:
            try:
                return self._write(own, owner, device)
            except OSError as error:
                raise InputsError(
                    f"what a {type(owner).__name__} gave cannot be kept in "
                    f"{tempfile.gettempdir()} ({error}): free some space, name another folder by "
                    "the variable TMPDIR, or pass fewer inputs"
                ) from error
        self._held += own.nbytes
        self._in_memory[owner] = self._in_memory.get(owner, 0) + own.nbytes
        kept = lazy_copy(own)  # the network may change its own in place
        return lambda: lazy_copy(kept) if device.type == "cpu" else kept.to(device)

    def drop(self, owner: object) -> None:
        """Forget what was kept for an owner."""
        self._held -= self._in_memory.pop(owner, 0)
        if owner in self._files:
            self._files.pop(owner).close()

    def close(self) -> None:
        """Forget everything."""
        for owner in [*self._in_memory, *self._files]:
            self.drop(owner)

    def _write(self, tensor: Tensor, owner: object, device: torch.device) -> Callable[[], Tensor]:
        shape, dtype, n_bytes = tensor.shape, tensor.dtype, tensor.nbytes
        if owner not in self._files:
            self._files[owner] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        file = self._files[owner]
        begin = -(-file.seek(0, 2) // 64) * 64
        file.seek(begin)
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        while data:
            data = data[file.write(data) :]

        def read() -> Tensor:
            if n_bytes == 0:
                return torch.empty(shape, dtype=dtype, device=device)
            # Mapped, and copied by the system where it is written into.
            pages = np.memmap(file, np.uint8, "c", offset=begin, shape=(n_bytes,))
            return torch.from_numpy(pages).view(dtype).view(shape).to(device)

        return read


def lazy_copy(tensor: Tensor) -> Tensor:
    """A copy that takes memory only once one of the two is written into, where torch can."""
    try:
        return torch.ops.aten._lazy_clone(tensor)
    except (RuntimeError, AttributeError):
        return tensor.clone()
