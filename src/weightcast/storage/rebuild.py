"""rebuild: one predicted layer in place of a dense one, as its rule, manifest and tensors say.

Everything is compared before it is used: sizes with the model's, shapes in the header of the
tensors' file with both, and the work of building a dictionary with what a model may take.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, Base, SharedBases
from weightcast.dictionaries.atoms import stacking
from weightcast.dictionaries.fingerprint import Fingerprint, fingerprint
from weightcast.dictionaries.packing import BaseSpec, unpack, unpack_mask
from weightcast.layers import PredictedLayer, view
from weightcast.layers.rule import Rule
from weightcast.storage.allowance import Allowance, building, check_width
from weightcast.storage.format_error import FormatError, excerpt, refusing
from weightcast.storage.manifest import LayerManifest
from weightcast.storage.tensors import DTYPES, Entry, TensorFile

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class TensorReader:
    """Reads indices, mixing and bases from a file; what several layers share is made once."""

    def __init__(self, file: TensorFile, ties: dict[str, str], allowance: Allowance) -> None:
        self.file = file
        self.ties = ties
        self.allowance = allowance
        self.shared = SharedBases()
        self.read: set[str] = set()

    def entry(self, name: str) -> Entry:
        """What the header says of a tensor, by its name or that of one that is tied to it."""
        return self.file.entry(self.ties.get(name, name))

    def has(self, name: str) -> bool:
        """Whether the file holds a tensor of this name, or one that is tied to it."""
        return self.ties.get(name, name) in self.file.entries

    def tensor(self, name: str) -> Tensor:
        """A tensor by such a name, of any shape."""
        source = self.ties.get(name, name)
        self.read.update((name, source))
        return self.file.read(source)

    def base(self, prefix: str, spec: BaseSpec, *, learned: bool) -> Base:
        """A stored base; where all its tensors are tied to another's, that one."""
        names = {f"{prefix}base.{name}": shape for name, shape in spec.shapes.items()}
        for name, shape in names.items():
            entry = self.entry(name)
            if entry.shape != shape or entry.dtype not in _FLOATS:
                raise FormatError(
                    f"does not fit: {name!r} is {entry.shape} of {entry.dtype}, not {shape}"
                )
        self.read.update(names)
        key = (spec, *(self.ties.get(name, name) for name in names))

        def read(name: str) -> Tensor:
            return self.tensor(f"{prefix}base.{name}")

        return self.shared.original(key, lambda: unpack(spec, read, learned=learned))


def rebuild(
    name: str,
    dense: nn.Module,
    rule: Rule,
    manifest: LayerManifest,
    source: TensorReader,
    *,
    adds: bool = False,
) -> PredictedLayer:
    """The predicted layer for a dense one of this name, with arbitrary V; or one that ``adds``."""
    seen = view(dense)
    predict = partial(
        seen.predict, rule, seed=None, bases=source.shared, delta=_dtype(manifest) if adds else None
    )
    if manifest.layer != seen.counterpart.__name__:
        raise FormatError(
            f"does not fit: layer {name!r} was saved as a {excerpt(manifest.layer)}, the model has "
            f"a {type(dense).__name__} there"
        )
    n_visible, n_units = seen.sizes
    if (n_visible, n_units) != (manifest.n_visible, manifest.n_units):
        raise FormatError(
            f"does not fit: layer {name!r} was saved with {manifest.n_visible} inputs and "
            f"{manifest.n_units} units, the model has {n_visible} and {n_units}"
        )
    indices = _indices(name, rule, manifest, source)
    if manifest.base is not None:
        atoms = _stored_atoms(name, rule, manifest, indices, source)
        if rule.dictionary.rebuildable:
            atoms.base.follow(partial(rule.build, n_visible, n_units, grid=seen.grid))
        return predict(indices=indices, atoms=atoms)
    if manifest.fingerprint is None:
        raise FormatError(f"is damaged: layer {name!r} has neither a base nor a fingerprint")
    if not rule.dictionary.rebuildable:
        raise FormatError(
            f"is damaged: layer {name!r} has no stored base, and a "
            f"{type(rule.dictionary).__name__} cannot be rebuilt"
        )
    source.allowance.spend(building(rule, seen.grid, n_visible, indices), name)
    layer = predict(indices=indices)
    remedy = '. Saved with bases="store", dictionaries need not be rebuilt'
    check_fingerprint(name, layer, manifest.fingerprint, manifest.dtype, remedy)
    return layer


def _dtype(manifest: LayerManifest) -> torch.dtype:
    """The dtype of an adapter's V, which need not be the model's."""
    names = {str(dtype).removeprefix("torch."): dtype for dtype in _FLOATS}
    if manifest.dtype not in names:
        raise FormatError(f"is damaged: V is {excerpt(manifest.dtype)}, no floating-point type")
    return names[manifest.dtype]


def _indices(name: str, rule: Rule, manifest: LayerManifest, source: TensorReader) -> Tensor:
    """(columns, n_atoms) int64; a FormatError unless the file's V fits them."""
    prefix = f"{name}." if name else ""
    n_atoms = rule.atoms_for(manifest.n_visible)
    V, columns = source.entry(f"{prefix}V"), rule.columns_for(manifest.n_units)
    if columns > manifest.n_units:
        raise FormatError(
            f"does not fit: layer {name!r} has {columns} columns for {manifest.n_units} units"
        )
    if V.shape != (n_atoms, manifest.n_units):
        raise FormatError(
            f"does not fit: layer {name!r} has V {V.shape}, its rule makes it "
            f"{(n_atoms, manifest.n_units)}"
        )
    if source.has(f"{prefix}atoms.mask"):
        entry = source.entry(f"{prefix}atoms.mask")
        if len(entry.shape) != 2 or entry.shape[0] != columns or entry.dtype != torch.uint8:
            raise FormatError(
                f"does not fit: layer {name!r} has a mask {entry.shape} of {entry.dtype}, its rule "
                f"makes it bytes for {columns} columns"
            )
        with refusing(f"does not fit: layer {name!r}"):
            return unpack_mask(source.tensor(f"{prefix}atoms.mask"), n_atoms)
    entry = source.entry(f"{prefix}atoms.indices")
    if entry.shape != (columns, n_atoms) or entry.dtype not in _INTEGERS:
        raise FormatError(
            f"does not fit: layer {name!r} has indices {entry.shape} of {entry.dtype}, its rule "
            f"makes them {(columns, n_atoms)}"
        )
    indices = source.tensor(f"{prefix}atoms.indices").to(torch.int64)
    if int(indices.min()) < 0:
        raise FormatError(f"does not fit: layer {name!r} has indices below 0")
    return indices


def _stored_atoms(
    name: str, rule: Rule, manifest: LayerManifest, indices: Tensor, source: TensorReader
) -> Atoms:
    """Atoms whose base and mixing the file holds."""
    assert manifest.base is not None
    prefix = f"{name}.atoms." if name else "atoms."
    base = source.base(prefix, manifest.base, learned=rule.dictionary.learns_base)
    if base.n_visible != manifest.n_visible:
        raise FormatError(
            f"does not fit: the base {prefix}base is for {base.n_visible} inputs, not "
            f"{manifest.n_visible}"
        )
    # Others are as large as their part of the file.
    if base.n_static < base.n_visible * base.n_base:
        check_width(base, len(indices), name)
        source.allowance.spend(stacking(base.multiply_adds, base.n_visible, indices), name)
    mixing = None
    if manifest.mixed:
        entry = source.entry(f"{prefix}mixing")
        shapes = ((*indices.shape,), (*indices.shape, indices.shape[1]))
        fits = len(entry.shape) == 4 or entry.shape in shapes  # Atoms checks blocks
        if not fits or entry.dtype not in _FLOATS:
            raise FormatError(f"does not fit: {prefix}mixing is {entry.shape} of {entry.dtype}")
        mixing = source.tensor(f"{prefix}mixing")
    return Atoms(base, indices, mixing)


def check_fingerprint(
    name: str, layer: PredictedLayer, stored: Fingerprint, saved: str, remedy: str = ""
) -> None:
    """Refuse a rebuilt dictionary that is not the one that was saved, in the dtype ``saved``."""
    dtype = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}[saved]
    rebuilt = fingerprint(layer.atoms)
    if not rebuilt.agrees(stored, (layer.V.dtype, dtype)):
        raise FormatError(
            f"does not fit: layer {name!r}: the rebuilt dictionary has fingerprint {rebuilt}, the "
            f"saved one {excerpt(stored)}: it was saved by another version, or the file is "
            f"damaged{remedy}"
        )
