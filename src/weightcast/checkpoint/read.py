"""load: the model that a folder holds, or a FormatError that says what is wrong with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from weightcast.checkpoint.bases import BaseFacts, unpack
from weightcast.checkpoint.fingerprint import fingerprint
from weightcast.checkpoint.format import (
    JSON_NAME,
    MISTAKES,
    Facts,
    FormatError,
    LayerFacts,
    largest,
    read_facts,
    shortened,
)
from weightcast.checkpoint.opened import opened, opened_files
from weightcast.checkpoint.state import without_atoms
from weightcast.checkpoint.tensors import DTYPES, TensorFile
from weightcast.convert import split_named
from weightcast.dictionaries import Atoms, Base, LowRank, SharedBases, count_atoms
from weightcast.layers import PredictedLayer, class_of
from weightcast.plan import convertible_layers
from weightcast.rule import Rule


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Read a model that :func:`save` wrote.

    On the machine that saved it, it gives the same outputs to the last bit. It takes the dtype and
    the device of ``model``, whatever they were when it was saved.

    Args:
        folder: to read; nothing in it is executed, and links in it are not followed.
        model: the dense model that was converted, with any weights; it is left as it is.

    Returns:
        A copy of ``model`` with predicted layers and the saved tensors.

    Raises:
        FormatError: files are missing, damaged, of another schema, or do not fit the model; or a
            dictionary that is rebuilt is not the one that was saved.
    """
    with _named(folder), opened(Path(folder)) as files:
        return _load(*files, model)


def load_files(
    facts: str | os.PathLike[str], tensors: str | os.PathLike[str], model: nn.Module
) -> nn.Module:
    """Read the two files of a saved model from wherever they are, such as a cache of links.

    Args:
        facts: the JSON file.
        tensors: the safetensors file.
        model: as for :func:`load`.

    Raises:
        FormatError: as :func:`load` does.
    """
    with _named(facts), opened_files(Path(facts), Path(tensors)) as files:
        return _load(*files, model)


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


def _load(facts_file: BinaryIO, tensors_file: BinaryIO, model: nn.Module) -> nn.Module:
    dense: dict[str, Any] = dict(convertible_layers(model))
    modules = {name for name, _ in model.named_modules()}
    facts = read_sized(facts_file, [*modules, *dense, *model.state_dict()])
    if any(name in dense and name not in modules for name in facts.layers):
        # Layers that are weights of a module, which is taken apart.
        model = split_named(copy.deepcopy(model), facts.layers)
        dense = dict(convertible_layers(model))
    file = TensorFile(tensors_file, facts.tensors)
    bases = _Bases(file, facts.ties)
    copies: dict[int, Any] = {}  # by what the model has in their place
    made: dict[int, PredictedLayer] = {}  # by the dense weight, which several layers may share
    for name, layer_facts in facts.layers.items():
        if name not in dense:
            raise FormatError(f"does not fit: the model has no dense layer {shortened(name)}")
        rule = facts.plan.rules[name]
        assert rule is not None
        try:
            layer = _rebuild(name, dense[name], rule, layer_facts, bases)
        except FormatError:
            raise
        except MISTAKES as error:
            raise FormatError(f"cannot be read: layer {name!r}: {shortened(error)}") from error
        if (twin := made.setdefault(id(dense[name].weight), layer)) is not layer:
            layer.tie(twin)
        if layer.bias is not None:  # which may be tied, too
            layer.bias = copies.setdefault(id(dense[name].bias), layer.bias)
        copies[id(dense[name])] = layer
    # The copy takes the predicted layers where the model has those that they replace.
    loaded = copy.deepcopy(model, copies)
    _fill(loaded, file, facts, bases.read)
    return loaded


class _Bases:
    """Indices, mixing and bases of a file; what several layers share is made once."""

    def __init__(self, file: TensorFile, ties: dict[str, str]) -> None:
        self.file = file
        self.ties = ties
        self.shared = SharedBases()
        self.read: set[str] = set()

    def tensor(self, name: str) -> Tensor:
        """A tensor of any shape, by its name or that of one that is tied to it."""
        source = self.ties.get(name, name)
        self.read.update((name, source))
        return self.file.read(source)

    def base(self, prefix: str, facts: BaseFacts, *, learned: bool) -> Base:
        """A stored base; where all its tensors are tied to another's, that one."""
        names = [f"{prefix}base.{name}" for name in facts.names]
        self.read.update(names)
        key = (facts, *(self.ties.get(name, name) for name in names))
        return self.shared.original(
            key,
            lambda: unpack(
                facts, lambda name: self.tensor(f"{prefix}base.{name}"), learned=learned
            ),
        )


def _rebuild(
    name: str, dense: nn.Module, rule: Rule, facts: LayerFacts, bases: _Bases
) -> PredictedLayer:
    """The predicted layer for a dense one: base and mixing from rule and indices, or as stored."""
    cls = class_of(dense)
    if facts.layer != cls.__name__:
        raise FormatError(
            f"does not fit: layer {name!r} was saved as a {facts.layer}, the model has a "
            f"{type(dense).__name__} there"
        )
    # Before anything is made of these numbers.
    n_weights = sum(parameter.numel() for parameter in dense.parameters())
    if min(facts.n_visible, facts.n_units) < 1 or facts.n_visible * facts.n_units > n_weights:
        raise FormatError(
            f"does not fit: layer {name!r} was saved with {facts.n_visible} inputs and "
            f"{facts.n_units} units, the model's has {n_weights} weights"
        )
    prefix = f"{name}.atoms." if name else "atoms."
    indices = _indices(bases.tensor(f"{prefix}indices"), name, rule, facts)
    atoms = None
    if facts.base is not None:
        atoms = _stored_atoms(prefix, rule, facts, indices, bases)
    layer: PredictedLayer = cls.from_dense(
        dense, rule, seed=None, bases=bases.shared, indices=indices, atoms=atoms
    )
    if (layer.n_visible, layer.n_units) != (facts.n_visible, facts.n_units):
        raise FormatError(
            f"does not fit: layer {name!r} was saved with {facts.n_visible} inputs and "
            f"{facts.n_units} units, the model has {layer.n_visible} and {layer.n_units}"
        )
    if atoms is None:
        _check_fingerprint(name, layer, facts)
    return layer


def _indices(stored: Tensor, name: str, rule: Rule, facts: LayerFacts) -> Tensor:
    """(columns, n_atoms) int64."""
    expected = (rule.columns, count_atoms(rule.fraction, facts.n_visible))
    if tuple(stored.shape) != expected or stored.is_floating_point() or stored.is_complex():
        raise FormatError(
            f"does not fit: layer {name!r} has indices {tuple(stored.shape)} of {stored.dtype}, "
            f"its rule makes them {expected}"
        )
    indices = stored.to(torch.int64)
    if int(indices.min()) < 0:
        raise FormatError(f"does not fit: layer {name!r} has indices below 0")
    return indices


def _stored_atoms(
    prefix: str, rule: Rule, facts: LayerFacts, indices: Tensor, bases: _Bases
) -> Atoms:
    """Atoms whose base and mixing the file holds."""
    assert facts.base is not None
    base = bases.base(prefix, facts.base, learned=isinstance(rule.dictionary, LowRank))
    if base.n_visible != facts.n_visible:
        raise FormatError(
            f"does not fit: the base {prefix}base is for {base.n_visible} inputs, not "
            f"{facts.n_visible}"
        )
    mixing = None
    if facts.mixed:
        mixing = bases.tensor(f"{prefix}mixing")
        shapes = ((*indices.shape,), (*indices.shape, indices.shape[1]))
        fits = mixing.dim() == 4 or tuple(mixing.shape) in shapes  # Atoms checks blocks
        if not fits or not mixing.is_floating_point():
            raise FormatError(f"does not fit: {prefix}mixing is {tuple(mixing.shape)}")
    return Atoms(base, indices, mixing)


def _check_fingerprint(name: str, layer: PredictedLayer, facts: LayerFacts) -> None:
    stored = facts.fingerprint
    dtype = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}[facts.dtype]
    if stored is None:
        raise FormatError(f"is damaged: layer {name!r} has neither a base nor a fingerprint")
    rebuilt = fingerprint(layer.atoms)
    if not rebuilt.agrees(stored, (layer.V.dtype, dtype)):
        raise FormatError(
            f"does not fit: layer {name!r}: the rebuilt dictionary has fingerprint {rebuilt}, the "
            f"saved one {stored}: it was saved by another version, or the file is damaged. Saved "
            'with bases="store", dictionaries need not be rebuilt'
        )


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
    for name, place in state.items():
        file.read_into(saved[name], place)
