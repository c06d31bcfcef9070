"""save: a model to a folder, whole or not at all."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from weightcast.dictionaries.fingerprint import fingerprint
from weightcast.dictionaries.packing import BaseSpec
from weightcast.files import atomic_folder
from weightcast.layers import PredictedLayer, adapted_layers, is_freed, predicted_layers
from weightcast.layers.models import check_values
from weightcast.layers.rule import written_rule
from weightcast.plan.plan import Plan
from weightcast.storage.few_bits import FewBits
from weightcast.storage.manifest import (
    JSON_NAME,
    SCHEMA,
    TENSORS_NAME,
    LayerManifest,
    Manifest,
    max_bytes,
    write_manifest,
)
from weightcast.storage.origin import origin_of
from weightcast.storage.state import check_state, saved_tensors, untied, without_atoms
from weightcast.storage.tensors import SCALES, write_tensors

Bases = Literal["rebuild", "store"]

_WORDS = 1 << 14  # bytes of JSON and header that nobody minds, some ten layers' worth


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    bases: Bases = "rebuild",
    bits: int | None = None,
    group_size: int = 64,
) -> None:
    """Write a model to a folder, whole or not at all; an existing model folder is replaced.

    The folder is written beside its place, brought to the disk, and put there in one step, so that
    whatever happens, the old model or the new one is there.

    Of an adapted model it is what learns that is written, with buffers, indices, bases that cannot
    be rebuilt, and a fingerprint of all that is frozen, which is read once for that.

    Args:
        model: with predicted layers, adapted ones, or none.
        folder: to write; its parent must exist.
        bases: ``rebuild`` leaves out what follows from plan and indices; ``store`` keeps it, for
            files that must load where dictionaries may come out otherwise.
        bits: of each number of V and of the bases that are kept, 8 or 4, in place of those of its
            dtype. They are rounded, and read back in their dtype: the file is smaller, not the
            loaded model.
        group_size: numbers of an atom that share a scale of 16 bits, where ``bits`` is given.

    Raises:
        ValueError: the folder exists and is not one that ``save`` wrote; or the model holds what
            these files cannot.
        OSError: writing failed; what was there is left as it was.
    """
    if bases not in ("rebuild", "store"):
        raise ValueError(f"bases is {bases!r}: take 'rebuild' or 'store'")
    with atomic_folder(Path(folder), refuse_others) as part:
        write_model(model, part, bases=bases, bits=bits, group_size=group_size)


def write_model(
    model: nn.Module,
    folder: Path,
    *,
    bases: Bases = "rebuild",
    bits: int | None = None,
    group_size: int = 64,
) -> None:
    """Write a model's two files into an empty folder; arguments as for :func:`save`."""
    check_values(model)
    adapted = adapted_layers(model)
    layers = {f"{name}.delta".lstrip("."): layer.delta for name, layer in adapted.items()}
    layers = layers or predicted_layers(model)
    gains = {name: layer.gain for name, layer in adapted.items()}
    state, stored = saved_tensors(model, layers, store=bases == "store")
    tensors, ties = untied(state)
    n_saved = sum(tensor.numel() for tensor in tensors.values())
    packed = {} if bits is None else _pack(tensors, layers, bits, group_size)
    manifest = Manifest(
        schema=SCHEMA,
        versions={"weightcast": version("weightcast"), "torch": str(torch.__version__)},
        plan=Plan({name: written_rule(layer.rule) for name, layer in layers.items()}),
        layers={name: _describe(layer, stored.get(name)) for name, layer in layers.items()},
        counts={
            "learned": sum(p.numel() for p in model.parameters() if not adapted or is_freed(p)),
            "saved": n_saved,
        },
        tensors=write_tensors(folder / TENSORS_NAME, tensors),
        ties=ties,
        packed=packed,
        origin=origin_of(model, gains) if adapted else None,
    )
    text = write_manifest(manifest)
    # Half of what load accepts: load counts the names of the dense model, which differ.
    inside = {id(m) for layer in layers.values() for m in layer.modules() if m is not layer}
    modules = [name for name, module in model.named_modules() if id(module) not in inside]
    allowed = max_bytes([*modules, *without_atoms(model, model.state_dict())]) // 2
    if len(text) > allowed:
        raise ValueError(
            f"plan and facts of this model take {len(text)} bytes of JSON, and no more than "
            f"{allowed} are sure to be loaded: keep long data out of the dictionaries' fields"
        )
    (folder / JSON_NAME).write_bytes(text)
    n_data = sum(tensor.nbytes for tensor in tensors.values())
    _warn_of_size(tensors, layers, saved_bytes(folder) - n_data)


def _pack(
    tensors: dict[str, Tensor], layers: dict[str, PredictedLayer], bits: int, group_size: int
) -> dict[str, FewBits]:
    """Put codes and scales in the place of V and of kept bases; how each of them is kept."""
    packed = {}
    for name in layers:
        prefix = f"{name}." if name else ""
        V, base = f"{prefix}V", f"{prefix}atoms.base."
        for key in [key for key in tensors if key == V or key.startswith(base)]:
            x = tensors[key]
            few = FewBits(bits, group_size, tuple(x.shape), str(x.dtype).removeprefix("torch."))
            try:
                tensors[key], tensors[key + SCALES] = few.pack(x)
            except ValueError as error:
                raise ValueError(f"{key!r}: {error}: save it without bits") from error
            packed[key] = few
    return packed


def is_saved_model(folder: Path) -> bool:
    """Whether a folder looks like one that :func:`save` wrote."""
    return (folder / JSON_NAME).is_file()


def refuse_others(folder: Path) -> None:
    """Refuse to replace what ``save`` did not write."""
    if not is_saved_model(folder):
        raise ValueError(
            f"{folder} exists and is no saved model, so it is not replaced: choose a new folder"
        )


def saved_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of a saved folder's files."""
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def checkpoint_bytes(model: nn.Module, bits: int | None = None, group_size: int = 64) -> int:
    """Bytes on disk: a dense network's safetensors file, a predicted network's whole folder.

    ``bits`` and ``group_size`` are those of :func:`save`, for a predicted network.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever asks sees the size
        if predicted_layers(model):
            write_model(model, Path(folder), bits=bits, group_size=group_size)
        else:
            state = dict(model.state_dict())
            check_state(state)
            write_tensors(Path(folder) / TENSORS_NAME, untied(state)[0])
        return saved_bytes(folder)


def _describe(layer: PredictedLayer, base: BaseSpec | None) -> LayerManifest:
    return LayerManifest(
        layer=type(layer).__name__,
        dtype=str(layer.V.dtype).removeprefix("torch."),
        n_visible=layer.n_visible,
        n_units=layer.n_units,
        learned=sum(parameter.numel() for parameter in layer.parameters()),
        base=base,
        mixed=base is not None and layer.atoms.mixing is not None,
        fingerprint=fingerprint(layer.atoms) if base is None else None,
    )


def _warn_of_size(
    tensors: dict[str, Tensor], layers: dict[str, PredictedLayer], words: int
) -> None:
    """Warn where predicting layers made the folder larger; ``words`` bytes are JSON and header."""
    dense = saved = 0
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        bias = 0 if layer.bias is None else layer.n_units
        dense += (layer.n_visible * layer.n_units + bias) * layer.V.element_size()
        saved += sum(t.nbytes for key, t in tensors.items() if key.startswith(prefix))
    if layers and saved + max(0, words - _WORDS) > dense:
        warnings.warn(
            f"the predicted layers take {saved + words:,} bytes in this folder, {words:,} of them "
            f"rules and names, the dense ones would take {dense:,}: dictionaries made from data or "
            "at random are saved too. Take fewer atoms or selection='leading', or a dictionary "
            "that can be rebuilt, and leave small layers dense",
            stacklevel=3,
        )
