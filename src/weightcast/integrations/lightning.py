"""SafetensorsCheckpointIO: Lightning's training checkpoints as safetensors files, without pickle.

The tensors of a checkpoint are the file's tensors, under their paths such as
``state_dict/model.hidden1.V``. The rest, dictionaries, lists and numbers, is JSON in the file's
header, where ``{"tensor": name}`` stands for a tensor. So reading a checkpoint runs no code,
whatever the file holds. Checksums of both are in the header too, since a file that is whole may
still have changed where it lay.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from weightcast.files import remove_partial, whole
from weightcast.storage import FormatError
from weightcast.storage.manifest import text_checksum
from weightcast.storage.tensors import tensor_checksum

_KIND = "weightcast checkpoint 1"
_LARGE = 1 << 18
"""Bytes of a tensor from which on a thread for its checksum pays."""


class SafetensorsCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or not there, and that run no code when they are read.

    With ``pl.Trainer(plugins=[SafetensorsCheckpointIO()])`` every checkpoint is written to a file
    beside the old one, synchronised to the disk, and renamed. A checkpoint may hold tensors,
    numbers, text, None, and lists, tuples and dictionaries of these. Those that Lightning's own
    plugin has written are read too, by ``torch.load`` with ``weights_only=True``.
    """

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            checkpoint: what the Trainer gathered.
            path: of the file, on a local disk; missing folders are made.
            storage_options: not supported.

        Raises:
            TypeError: storage options.
            ValueError: the checkpoint holds an object that is no plain data.
        """
        if storage_options is not None:
            raise TypeError("SafetensorsCheckpointIO writes local files: leave storage_options out")
        tensors = _Tensors()
        tree = json.dumps(_encode(checkpoint, (), tensors))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial(path)
        sums = json.dumps({"tree": text_checksum(tree), "tensors": _checksums(tensors.named)})
        with whole(path) as partial:
            save_file(tensors.named, partial, {"kind": _KIND, "tree": tree, "checksums": sums})

    @override
    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: of the file.
            map_location: a device for the tensors; None is the CPU.
            weights_only: True or None; this class knows no other way of reading.

        Raises:
            FormatError: the file is damaged, or no checkpoint.
            ValueError: ``weights_only=False``.
        """
        if weights_only is False:
            raise ValueError("SafetensorsCheckpointIO unpickles nothing: weights_only must be True")
        try:
            if _is_archive(path):  # by Lightning's own plugin
                return torch.load(path, map_location=map_location or "cpu", weights_only=True)
            tree, tensors = _read(path)
            device = torch.device(map_location or "cpu")
            return _decode(tree, {name: tensor.to(device) for name, tensor in tensors.items()})
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


class _Tensors:
    """The tensors of a checkpoint, each once: tied ones share a name."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}
        self._storages: set[int] = set()

    def add(self, tensor: Tensor, path: tuple[Any, ...]) -> str:
        """Keep a tensor and tell its name."""
        if tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(
                f"the checkpoint's {_join(path)} is a tensor of layout {tensor.layout} on "
                f"{tensor.device}: only dense tensors that hold data can be saved"
            )
        storage = tensor.untyped_storage().data_ptr()
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in self._names:
            return self._names[key]
        name = _join(path)
        while name in self.named:  # 0 and "0", or a key with a slash
            name += "'"
        held = tensor.detach().to("cpu").contiguous()
        if held.untyped_storage().data_ptr() in self._storages:
            held = held.clone()  # safetensors refuses tensors that share memory
        self._storages.add(held.untyped_storage().data_ptr())
        self.named[name] = held
        self._names[key] = name
        return name


def _read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Tensor]]:
    """The tree and the tensors of a file."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("kind") != _KIND:
            raise FormatError(f"{path} holds no training checkpoint of {_KIND!r}")
        # Copies: these tensors lie in the mapped file, at any alignment.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if "checksums" in metadata:  # older files have none
        _check(metadata["tree"], tensors, json.loads(metadata["checksums"]))
    return json.loads(metadata["tree"]), tensors


def _is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file is what ``torch.save`` writes; one that only ends like it is none."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check(tree: str, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Compare with the checksums that were saved.

    Raises:
        ValueError: something has another.
    """
    if text_checksum(tree) != saved["tree"]:
        raise ValueError("what is beside the tensors was changed after it was saved (checksum)")
    for name, found in _checksums(tensors).items():
        if found != saved["tensors"].get(name):
            raise ValueError(f"{name!r} was changed after it was saved (checksum)")


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of all tensors; of several large ones at once, since each takes as long as reading it."""
    with ThreadPoolExecutor() as threads:
        large = {
            name: threads.submit(tensor_checksum, tensor)
            for name, tensor in tensors.items()
            if tensor.nbytes > _LARGE
        }
        small = {
            name: tensor_checksum(tensor) for name, tensor in tensors.items() if name not in large
        }
        return small | {name: sum_.result() for name, sum_ in large.items()}


def _encode(value: Any, path: tuple[Any, ...], tensors: _Tensors) -> Any:
    """JSON data: scalars and lists as they are, the rest as an object with one tag."""
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(value, path)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_encode(item, (*path, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        pairs = [
            [_encode(key, path, tensors), _encode(item, (*path, key), tensors)]
            for key, item in value.items()
        ]
        versions = getattr(value, "_metadata", None)  # that torch hangs on state dicts
        if versions is None:
            return {"dict": pairs}
        return {"state_dict": [pairs, _encode(dict(versions), (*path, "_metadata"), tensors)]}
    raise ValueError(
        f"the checkpoint's {_join(path)} is a {type(value).__name__}, which is no plain data: keep "
        "tensors, numbers, text, None, lists, tuples and dictionaries of these in checkpoints"
    )


def _decode(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`_encode` was given."""
    if isinstance(data, list):
        return [_decode(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    [(tag, content)] = data.items()
    match tag:
        case "tensor":
            return tensors[content]
        case "tuple":
            return tuple(_decode(content, tensors))
        case "dict":
            return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
        case "state_dict":
            pairs, versions = content
            state = OrderedDict((_decode(k, tensors), _decode(v, tensors)) for k, v in pairs)
            state._metadata = _decode(versions, tensors)  # pyright: ignore[reportAttributeAccessIssue]
            return state
    raise ValueError(f"unknown tag {tag!r}")


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
