"""load: the model that a folder holds, or a FormatError that says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from weightcast.layers import PredictedLayer
from weightcast.plan.plan import convertible_layers
from weightcast.storage.allowance import Allowance
from weightcast.storage.manifest import (
    JSON_NAME,
    MISTAKES,
    Facts,
    FormatError,
    largest,
    read_facts,
    shortened,
)
from weightcast.storage.opened import opened, opened_files
from weightcast.storage.rebuild import Source, rebuild
from weightcast.storage.state import check_state, identity, without_atoms
from weightcast.storage.tensors import TensorFile
from weightcast.transform.swap import swap


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
    with _named(folder), opened(Path(folder)) as files:
        return _load(*files, model, trusted=trusted)


def load_files(
    facts: str | os.PathLike[str],
    tensors: str | os.PathLike[str],
    model: nn.Module,
    *,
    trusted: bool = False,
) -> nn.Module:
    """Read the two files of a saved model from wherever they are, such as a cache of links.

    Args:
        facts: the JSON file.
        tensors: the safetensors file.
        model: as for :func:`load`.
        trusted: as for :func:`load`.

    Raises:
        FormatError: as :func:`load` does.
    """
    with _named(facts), opened_files(Path(facts), Path(tensors)) as files:
        return _load(*files, model, trusted=trusted)


def read_sized(file: BinaryIO, names: Iterable[str]) -> Facts:
    """The facts in a file, if it is no longer than those of a model with these modules may be.

    Args:
        file: JSON.
        names: of the model's modules and tensors.

    Raises:
        FormatError: too long, or what :func:`read_facts` refuses.
    """
    size, allowed = os.fstat(file.fileno()).st_size, largest(names)
    if size > allowed:
        raise FormatError(
            f"does not fit: {JSON_NAME} has {size} bytes, for this model it has at most {allowed}"
        )
    return read_facts(file.read(size))


@contextmanager
def _named(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Errors begin with the folder."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{folder} {error}") from error.__cause__


def _load(
    facts_file: BinaryIO, tensors_file: BinaryIO, model: nn.Module, *, trusted: bool
) -> nn.Module:
    _check_model(model)
    dense = convertible_layers(model)
    modules = [name for name, _ in model.named_modules()]
    facts = read_sized(facts_file, [*modules, *dense, *model.state_dict()])
    _check_names(facts, dense, model)
    file = TensorFile(tensors_file, facts.tensors)
    source = Source(file, facts.ties, Allowance(model, trusted=trusted))

    def make(name: str, layer: nn.Module, *_: Any) -> PredictedLayer:
        rule = facts.plan.rules[name]
        assert rule is not None
        try:
            return rebuild(name, layer, rule, facts.layers[name], source)
        except FormatError:
            raise
        except MISTAKES as error:
            raise FormatError(f"cannot be read: layer {name!r}: {shortened(error)}") from error

    loaded = swap(model, facts.layers, make)
    _fill(loaded, file, facts, source.read)
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


def _check_names(facts: Facts, dense: Collection[str], model: nn.Module) -> None:
    """Refuse layers that the model does not have, and more tensors than it can have with them."""
    for name in facts.layers:
        if name not in dense:
            raise FormatError(f"does not fit: the model has no dense layer {shortened(name)}")
    # V stands for the weight; indices, mixing and the factors of a base are added.
    added = (2 + len(layer.base.factors if layer.base else ()) for layer in facts.layers.values())
    n_names, most = len(facts.tensors) + len(facts.ties), len(model.state_dict()) + sum(added)
    if n_names > most:
        raise FormatError(f"does not fit: it names {n_names} tensors, the model has up to {most}")


def _fill(model: nn.Module, file: TensorFile, facts: Facts, read: set[str]) -> None:
    """Copy the other tensors into the model; every name must have its place and shape."""
    state = without_atoms(model, model.state_dict())
    saved = {name: name for name in file.entries} | facts.ties
    missing = sorted(set(state) - set(saved))
    unknown = sorted(set(saved) - set(state) - read)
    if missing or unknown:
        raise FormatError(
            f"does not fit the model: missing {missing[:5]}, unexpected {shortened(unknown[:5])}"
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
