"""What a command works on: a saved state dict, a Hub folder on disk, or a model of a package.

Nothing here runs code from a file: state dicts hold tensors only, Hub folders are read by classes
that the installed transformers knows, and a package is imported only where the user says so.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from weightcast.files import user_path
from weightcast.inputs.batches import as_batches

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_OLD_MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")  # before archives


def load_source(source: str, allow_import: bool = False, factory: str | None = None) -> Any:
    """Read what a command is to work on: a model, or the tensors by name of a state dict.

    Args:
        source: a .safetensors, .pt or .pth file, a Hub folder (config.json and safetensors), or
            ``package.module:name`` of a model, or of a function without arguments that makes one.
        allow_import: whether a package may be imported, which runs its code.
        factory: ``package.module:name`` for the model whose state dict the file holds.
    """
    path = user_path(source)
    is_name = _FUNCTION.fullmatch(source) and not path.exists()
    if factory is not None and (is_name or path.is_dir()):
        raise ValueError(
            f"--factory makes the model of a state dict, and {source} is none: leave it out"
        )
    if is_name:
        found = _import(source, allow_import)
        model = found if isinstance(found, nn.Module) else _call(source, found)
        if not isinstance(model, nn.Module):
            raise ValueError(f"{source} returned a {type(model).__name__}: expected a module")
        return model
    if path.is_dir():
        return _load_hub_folder(path)
    state = load_tensors(path)
    if factory is None:
        return _without_wrapper(state)
    model = load_source(factory, allow_import)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{factory} holds tensors: name what makes the model as --factory")
    if not state.keys() & model.state_dict().keys():
        state = _without_wrapper(state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit what {factory} makes: {error}") from error
    return model


def load_inputs(source: str | None, allow_import: bool, batch: int) -> list[Any] | None:
    """Example inputs as batches; None without a source.

    Args:
        source: a .safetensors, .pt or .pth file with one tensor, or with several by the names of
            the model's arguments, one example per row; or ``package.module:function``, which
            returns an iterable of batches.
        allow_import: whether a function may be imported.
        batch: examples per batch of a file's tensors.
    """
    if source is None:
        return None
    path = user_path(source)
    if _FUNCTION.fullmatch(source) and not path.exists():
        found = _call(source, _import(source, allow_import))
        if not isinstance(found, Iterable):
            raise ValueError(f"{source} returned a {type(found).__name__}: expected batches")
        return as_batches(found)
    tensors = load_tensors(path)
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
    """The tensors of a .safetensors, .pt or .pth file; a ValueError says why it holds none."""
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: name a .safetensors, .pt or .pth file, a folder with config.json "
            "and safetensors, or package.module:function with --allow-import"
        )
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"{path} is no .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    else:
        try:
            with warnings.catch_warnings():  # torch's, of files that it then refuses
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has no class of its own for what it refuses
            raise ValueError(_why_not_read(path, error)) from error
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
        raise ValueError(f"{path} holds no tensors")
    return tensors


def _why_not_read(path: Path, error: Exception) -> str:
    """What torch.load refused, in other words than torch's, which advise to trust the file."""
    if not _is_from_torch_save(path):
        return f"{path} is no file of torch.save, or was cut short"
    if "weights_only" in str(error):
        return (
            f"{path} holds pickled objects other than tensors and is not read, as that could run "
            "any code: save tensors alone, such as model.state_dict(), or name a function in the "
            "file's place, package.module:function with --allow-import"
        )
    return f"{path} is damaged: {str(error).partition(chr(10))[0]}"


def _is_from_torch_save(path: Path) -> bool:
    """Whether a file is an archive that torch.save wrote, or begins as those of old did."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    with path.open("rb") as file:
        return _OLD_MAGIC in file.read(32)


def load_function(name: str | None, allow_import: bool) -> Callable[..., Any] | None:
    """The function that an option names, package.module:function; None for none."""
    if name is None:
        return None
    if ":" not in name:
        raise ValueError(f"{name}: name a function, package.module:function")
    function = _import(name, allow_import)
    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}: expected a function")
    return function


def _import(name: str, allow_import: bool) -> Any:
    """What ``package.module:name`` names."""
    if not allow_import:
        raise ValueError(
            f"{name} is a function, and to import it runs its package's code: add --allow-import "
            "if you trust it"
        )
    module, function = name.split(":")
    if os.getcwd() not in sys.path:  # as for python -m
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: there is no module {error.name!r}") from error
    except AttributeError as error:
        raise ValueError(f"{name}: {module} has no {function!r}") from error


def _call(name: str, function: Any) -> Any:
    """What a function returns, called without arguments."""
    if not callable(function) or isinstance(function, nn.Module):  # which would be run
        raise ValueError(f"{name} is a {type(function).__name__}: expected a function")
    try:
        inspect.signature(function).bind()
    except TypeError as error:  # of the call alone: those from within keep their traceback
        raise ValueError(
            f"{name} is called without arguments ({error}): name a function that needs none"
        ) from error
    except ValueError:  # some of those written in C have no signature
        pass
    return function()


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under the names of the model that DataParallel, DDP or torch.compile wraps."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            return _without_wrapper({name.removeprefix(prefix): t for name, t in tensors.items()})
    return tensors


def _load_hub_folder(folder: Path) -> nn.Module:
    """A model by the installed transformers' own class, from safetensors alone."""
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
