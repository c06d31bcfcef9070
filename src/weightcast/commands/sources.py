"""What a command works on: a saved state dict, a Hub folder on disk, or a function that makes it.

Nothing here runs code from a file: state dicts hold tensors only, Hub folders are read by classes
that the installed transformers knows, and a function is imported only where the user says so.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_source(source: str, allow_import: bool = False, factory: str | None = None) -> Any:
    """Read what a command is to work on.

    Args:
        source: a .safetensors, .pt or .pth file, a Hub folder (config.json and safetensors), or
            ``package.module:function``.
        allow_import: whether a function may be imported, which runs its package's code.
        factory: a function that makes the model whose state dict the file holds.

    Returns:
        The model; for a state dict without a factory, the tensors by name.

    Raises:
        ValueError: no such file or folder, one that cannot be read, or a function that may not be
            imported.
    """
    path = Path(source).expanduser()
    if _FUNCTION.fullmatch(source) and not path.exists():
        model = call_function(source, allow_import)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{source} returned a {type(model).__name__}: expected a module")
        return model
    if path.is_dir():
        return _load_hub_folder(path)
    state = load_tensors(path)
    if factory is None:
        return _without_wrapper(state)
    model = load_source(factory, allow_import)
    if not state.keys() & model.state_dict().keys():
        state = _without_wrapper(state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit what {factory} makes: {error}") from error
    return model


def load_inputs(source: str, allow_import: bool = False, batch: int = 100) -> list[Any]:
    """Example inputs as batches.

    Args:
        source: a .safetensors, .pt or .pth file with one tensor, or with several by the names of
            the model's arguments, one example per row; or ``package.module:function``, which
            returns an iterable of batches.
        allow_import: whether a function may be imported.
        batch: examples per batch of a file's tensors.

    Raises:
        ValueError: what cannot be read, or tensors of different lengths.
    """
    if _FUNCTION.fullmatch(source) and not Path(source).exists():
        found = call_function(source, allow_import)
        if not isinstance(found, Iterable):
            raise ValueError(f"{source} returned a {type(found).__name__}: expected batches")
        return list(found)
    tensors = load_tensors(Path(source).expanduser())
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"{source} holds tensors of {sorted(lengths)} examples: each must have one row per "
            "example, and equally many"
        )
    parts = {name: tensor.split(batch) for name, tensor in tensors.items()}
    if len(parts) == 1:
        return list(next(iter(parts.values())))
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file.

    Raises:
        ValueError: no such file, another kind, or anything but tensors inside.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: name a .safetensors, .pt or .pth file, a folder with config.json "
            "and safetensors, or package.module:function with --allow-import"
        )
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{path} is no .safetensors, .pt or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no class of its own for what it refuses
        raise ValueError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    if isinstance(state, Tensor):
        return {"": state}
    # Training scripts often keep the state dict beside other things.
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}: expected a state dict")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors: expected a state dict")
    return tensors


def call_function(name: str, allow_import: bool) -> Any:
    """What a function of a package returns.

    Raises:
        ValueError: it may not be imported, or there is no such function.
    """
    if not allow_import:
        raise ValueError(
            f"{name} is a function, and to import it runs its package's code: add --allow-import "
            "if you trust it"
        )
    module, function = name.split(":")
    if os.getcwd() not in sys.path:  # as for python -m
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: there is no module {error.name!r}") from error
    except AttributeError as error:
        raise ValueError(f"{name}: {module} has no {function!r}") from error
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}: expected a function")
    return found()


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the model that DataParallel, DDP or torch.compile wraps."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            return _without_wrapper({name.removeprefix(prefix): t for name, t in tensors.items()})
    return tensors


def _load_hub_folder(folder: Path) -> nn.Module:
    """A model by the installed transformers' own class, from safetensors alone.

    Raises:
        ValueError: no Hub folder, no transformers, or a model that it does not know.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} is no Hub folder: it needs config.json and .safetensors files; a single "
            "file of weights is named itself"
        )
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{folder} is read by transformers: pip install transformers, or name the file of "
            "weights"
        ) from error
    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **safe)
        known = [getattr(transformers, name, None) for name in config.architectures or ()]
        kind: Any = next(filter(None, known), transformers.AutoModel)
        return kind.from_pretrained(folder, config=config, use_safetensors=True, **safe)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"transformers cannot read {folder}: {str(error).splitlines()[0]}. A model with code "
            "of its own needs package.module:function and --allow-import"
        ) from error
