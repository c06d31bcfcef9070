"""load: the model that a folder holds, or a FormatError that says what is wrong with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from weightcast.layers import PredictedLayer
from weightcast.plan.plan import convertible_layers
from weightcast.storage.allowance import Allowance
from weightcast.storage.format_error import BAD_DATA, FormatError, excerpt, naming
from weightcast.storage.manifest import JSON_NAME, Manifest, max_bytes, read_manifest
from weightcast.storage.open_files import open_files, open_folder
from weightcast.storage.rebuild import TensorReader, rebuild
from weightcast.storage.state import check_state, identity, without_atoms
from weightcast.storage.tensors import TensorFile
from weightcast.transform.convert import split_named


def load(folder: str | os.PathLike[str], model: nn.Module, *, trusted: bool = False) -> nn.Module:
    """Read a model that :func:`save` wrote.

    On the machine that saved it, it gives the same outputs to the last bit. It takes the dtype and
    the device of ``model``, whatever they were when it was saved.

    Args:
        folder: to read; nothing in it is executed, and links in it are not followed.
        model: the dense model that was converted, with any weights; it is left as it is.
        trusted: build dictionaries again whatever that takes, as for a folder of your own. All else
            is checked as ever.

    Returns:
        A copy of ``model`` with predicted layers and the saved tensors.

    Raises:
        FormatError: files are missing, damaged, of another schema, or do not fit the model; or a
            dictionary that is rebuilt is not the one that was saved, or would take far more work
            than models of this size need.
    """
    with naming(folder), open_folder(Path(folder)) as files:
        return _load(*files, model, trusted=trusted)


def load_files(
    manifest: str | os.PathLike[str],
    tensors: str | os.PathLike[str],
    model: nn.Module,
    *,
    trusted: bool = False,
) -> nn.Module:
    """Read the two files of a saved model from wherever they are, such as a cache of links.

    Args:
        manifest: the JSON file.
        tensors: the safetensors file.
        model: as for :func:`load`.
        trusted: as for :func:`load`.

    Raises:
        FormatError: as :func:`load` does.
    """
    with naming(manifest), open_files(Path(manifest), Path(tensors)) as files:
        return _load(*files, model, trusted=trusted)


def _read_manifest_for(names: Iterable[str], file: BinaryIO) -> Manifest:
    """The manifest, if it is no longer than one that names these modules and tensors may be."""
    size, allowed = os.fstat(file.fileno()).st_size, max_bytes(names)
    if size > allowed:
        raise FormatError(
            f"does not fit: {JSON_NAME} has {size} bytes, for this model it has at most {allowed}"
        )
    return read_manifest(file.read(size))


def _load(
    manifest_file: BinaryIO, tensors_file: BinaryIO, model: nn.Module, *, trusted: bool
) -> nn.Module:
    _check_model(model)
    dense: dict[str, Any] = dict(convertible_layers(model))
    modules = {name for name, _ in model.named_modules()}
    manifest = _read_manifest_for([*modules, *dense, *model.state_dict()], manifest_file)
    if any(name in dense and name not in modules for name in manifest.layers):
        # Layers that are weights of a module, which is taken apart.
        model = split_named(copy.deepcopy(model), manifest.layers)
        dense = dict(convertible_layers(model))
    _check_names(manifest, dense, model)
    file = TensorFile(tensors_file, manifest.tensors)
    source = TensorReader(file, manifest.ties, Allowance(model, trusted=trusted))
    copies: dict[int, Any] = {}  # by what the model has in their place
    made: dict[int, PredictedLayer] = {}  # by the dense weight, which several layers may share
    for name, layer_manifest in manifest.layers.items():
        rule = manifest.plan.rules[name]
        assert rule is not None
        try:
            layer = rebuild(name, dense[name], rule, layer_manifest, source)
        except FormatError:
            raise
        except BAD_DATA as error:
            raise FormatError(f"cannot be read: layer {name!r}: {excerpt(error)}") from error
        if (twin := made.setdefault(id(dense[name].weight), layer)) is not layer:
            layer.tie(twin)
        if layer.bias is not None:  # which may be tied, too
            layer.bias = copies.setdefault(id(dense[name].bias), layer.bias)
        copies[id(dense[name])] = layer
    # The copy takes the predicted layers where the model has those that they replace.
    loaded = copy.deepcopy(model, copies)
    _fill(loaded, file, manifest, source.read)
    return loaded


def _check_model(model: nn.Module) -> None:
    """Refuse a model into which nothing can be loaded."""
    state = model.state_dict()
    try:
        check_state(state)
    except ValueError as error:
        raise FormatError(f"is not loaded into this model: {error}") from error
    for name, tensor in state.items():
        if tensor.is_meta:
            raise FormatError(
                f"is not loaded into this model: {name!r} is on meta and holds no values: make it "
                "with to_empty(device=...), or without torch.device('meta')"
            )


def _check_names(manifest: Manifest, dense: dict[str, Any], model: nn.Module) -> None:
    """Refuse layers that the model does not have, and more tensors than it can have with them."""
    for name in manifest.layers:
        if name not in dense:
            raise FormatError(f"does not fit: the model has no dense layer {excerpt(name)}")
    # V stands for the weight; indices, mixing and the factors of a base are added.
    added = (
        2 + len(layer.base.factors if layer.base else ()) for layer in manifest.layers.values()
    )
    n_names, most = len(manifest.tensors) + len(manifest.ties), len(model.state_dict()) + sum(added)
    if n_names > most:
        raise FormatError(f"does not fit: it names {n_names} tensors, the model has up to {most}")


def _fill(model: nn.Module, file: TensorFile, manifest: Manifest, read: set[str]) -> None:
    """Copy the other tensors into the model; every name must have its place and shape."""
    state = without_atoms(model, model.state_dict())
    saved = {name: name for name in file.entries} | manifest.ties
    missing = sorted(set(state) - set(saved))
    unknown = sorted(set(saved) - set(state) - read)
    if missing or unknown:
        raise FormatError(
            f"does not fit the model: missing {missing[:5]}, unexpected {excerpt(unknown[:5])}"
        )
    first: dict[Any, str] = {}
    for name, place in state.items():
        other = first.setdefault(identity(place), name) if place.numel() else name
        if saved[other] != saved[name]:
            raise FormatError(
                f"does not fit the model: {name!r} is a tensor of its own, but in the model the "
                f"same as {other!r}: load it into a model whose weights are not tied there"
            )
        if other == name:
            file.read_into(saved[name], place)
