"""load: the model that a folder holds, or a FormatError that says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from weightcast.dictionaries import Atoms
from weightcast.layers import (
    PREDICTED,
    AdaptedLayer,
    PredictedLayer,
    PredictedTransposedLinear,
    free,
    is_freed,
)
from weightcast.layers.models import Model
from weightcast.plan.eligibility import convertible_layers
from weightcast.storage.allowance import Allowance
from weightcast.storage.format_error import FormatError, excerpt, naming, refusing
from weightcast.storage.manifest import JSON_NAME, LayerManifest, Manifest, max_bytes, read_manifest
from weightcast.storage.open_files import open_files, open_folder
from weightcast.storage.rebuild import TensorReader, rebuild
from weightcast.storage.state import check_state, identity, own_state
from weightcast.storage.tensors import TensorFile
from weightcast.transform.adapt import stand_ins
from weightcast.transform.swap import swap


def load(folder: str | os.PathLike[str], model: Model, *, trusted: bool = False) -> Model:
    """Read a model that :func:`save` wrote.

    On the machine that saved it, it gives the same outputs to the last bit. It takes the dtype and
    the device of ``model``, whatever they were when it was saved.

    Args:
        folder: to read; nothing in it is executed, and links in it are not followed.
        model: the dense model that was converted, with any weights; it is left as it is. For an
            adapter the model that was adapted, with its weights, whose memory is shared.
        trusted: rebuild dictionaries whatever that takes; all else is checked as ever.

    Returns:
        A copy of ``model`` with predicted layers, or adapted ones, and the saved tensors.

    Raises:
        FormatError: files are missing, damaged, of another schema, or do not fit the model, for
            an adapter one whose frozen weights are others; or a
            dictionary that is rebuilt is not the one that was saved, or would take far more work
            than models of this size need.
    """
    with naming(folder), open_folder(Path(folder)) as files:
        return _load(*files, model, trusted=trusted)


def load_files(
    manifest: str | os.PathLike[str],
    tensors: str | os.PathLike[str],
    model: Model,
    *,
    trusted: bool = False,
) -> Model:
    """Read a saved model's two files, wherever they are; the rest is as for :func:`load`."""
    with naming(manifest), open_files(Path(manifest), Path(tensors)) as files:
        return _load(*files, model, trusted=trusted)


def _load(manifest_file: BinaryIO, tensors_file: BinaryIO, model: Model, *, trusted: bool) -> Model:
    _check_model(model)
    dense = convertible_layers(model)
    modules = [name for name, _ in model.named_modules()]
    size = os.fstat(manifest_file.fileno()).st_size
    allowed = max_bytes([*modules, *dense, *model.state_dict()])
    if size > allowed:
        raise FormatError(
            f"does not fit: {JSON_NAME} has {size} bytes, for this model it has at most {allowed}"
        )
    manifest = read_manifest(manifest_file.read(size))
    origin = manifest.origin
    if origin is not None:
        dense = convertible_layers(model, predicted=True)
    names = {_place(name, manifest): name for name in manifest.layers}
    _check_names(manifest, names, dense, model)
    file = TensorFile(tensors_file, manifest.tensors, manifest.packed)
    reader = TensorReader(file, manifest.ties, Allowance(model, trusted=trusted))

    firsts: dict[int, PredictedLayer] = {}

    def make(name: str, layer: nn.Module, *_: Any) -> PredictedLayer | AdaptedLayer:
        key = names[name]
        rule = manifest.plan.rules[key]
        assert rule is not None
        with refusing(f"cannot be read: layer {name!r}"):
            adds = origin is not None
            new = rebuild(key, layer, rule, manifest.layers[key], reader, adds=adds)
            if origin is None:
                return new
            first = firsts.setdefault(id(new.atoms.base), new)
            if first is not new and _alike(first.atoms, new.atoms):
                new.share_atoms(first)  # so that a state dict holds them once
            return AdaptedLayer(layer, new, origin.gains[name])

    loaded = swap(model, names, make, shared=None if origin is None else stand_ins(model, ()))
    if origin is not None:
        for name, p in loaded.named_parameters():
            if name in manifest.tensors and not is_freed(p):
                free(p)
        origin.check(loaded)
    _fill(loaded, file, manifest, reader.read)
    return loaded


def _alike(one: Atoms, two: Atoms) -> bool:
    """Whether atoms of one base are the same."""
    M, N = one.mixing, two.mixing
    mixed = M is N if M is None or N is None else M.equal(N)
    return mixed and one.indices.equal(two.indices)


def _place(name: str, manifest: Manifest) -> str:
    """The layer that a file's layer stands for, or is added to."""
    return name if manifest.origin is None else name.removesuffix("delta").removesuffix(".")


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


def _check_names(
    manifest: Manifest, names: Mapping[str, str], dense: Collection[str], model: nn.Module
) -> None:
    """Refuse layers that the model does not have, and more tensors than it can have with them."""
    for name, key in names.items():
        if name not in dense:
            registered = _registered(manifest.layers[key])
            raise FormatError(
                f"does not fit: the model has no dense layer {excerpt(name)}{registered}"
            )
    # V stands for the weight; indices, mixing and the factors of a base are added.
    bases = [layer.base.factors if layer.base else () for layer in manifest.layers.values()]
    most = len(model.state_dict()) + sum(2 + len(factors) for factors in bases)
    n_names = len(manifest.tensors) - len(manifest.packed) + len(manifest.ties)
    if n_names > most:
        raise FormatError(f"does not fit: it names {n_names} tensors, the model has up to {most}")


def _registered(layer: LayerManifest) -> str:
    """What is to be done about a layer of a type that is not known."""
    if layer.layer in {cls.__name__ for cls in (PredictedTransposedLinear, *PREDICTED.values())}:
        return ""
    return (
        f", nor a type {excerpt(layer.layer)}: import the module that registers it "
        "(weightcast.register_layer) first"
    )


def _fill(model: nn.Module, file: TensorFile, manifest: Manifest, read: set[str]) -> None:
    """Copy the other tensors into the model; every name must have its place and shape."""
    state = own_state(model)
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
