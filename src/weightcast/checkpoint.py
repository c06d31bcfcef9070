"""save and load: a folder of JSON and safetensors that holds what cannot be rebuilt.

    weightcast.json    schema, versions, the rule and the dictionary's fingerprint of every
                       predicted layer, tied names
    model.safetensors  V, biases, dense tensors, indices; bases of dictionaries made from data or
                       at random

Analytic bases are rebuilt from rule and indices when loading, and checked by their fingerprint.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightcast.codec import decode, encode
from weightcast.convert import predicted_layers, split_named
from weightcast.dictionaries import Atoms, DenseBase, LowRank, SharedBases, StoredAtoms, count_atoms
from weightcast.layers import PredictedLayer, layer_size, predicted_class, replace_module
from weightcast.plan import convertible_layers
from weightcast.rule import Rule

SCHEMA = 1
JSON_NAME, TENSORS_NAME = "weightcast.json", "model.safetensors"


class FormatError(ValueError):
    """A folder that :func:`load` cannot read; the message says what is wrong with it."""


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a model to a folder, whole or not at all; an existing model folder is replaced.

    Args:
        model: with predicted layers, or none.
        folder: to write; its parent must exist.

    Raises:
        ValueError: the folder exists and is not one that ``save`` wrote.
    """
    target = Path(folder)
    if target.exists() and not (target / JSON_NAME).is_file():
        raise ValueError(
            f"{target} exists and holds no {JSON_NAME}, so it is not replaced: choose a new folder"
        )
    layers = predicted_layers(model)
    tensors, ties = _unique_tensors(_stored_state(model, layers))
    facts = {
        "schema": SCHEMA,
        "versions": {"weightcast": version("weightcast"), "torch": str(torch.__version__)},
        "layers": {name: _layer_facts(layer) for name, layer in layers.items()},
        "ties": ties,
    }
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file(tensors, part / TENSORS_NAME)
        (part / JSON_NAME).write_text(json.dumps(facts, indent=1))
        for file in (part / TENSORS_NAME, part / JSON_NAME):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        # mkdtemp makes private folders; a model is as readable as any file its owner writes.
        part.chmod(0o777 & ~_umask())
        _swap_in(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def load(folder: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Read a model that :func:`save` wrote.

    Args:
        folder: to read.
        model: the dense model that was converted, with any weights; it is left as it is.

    Returns:
        A copy of ``model`` with predicted layers and the saved tensors.

    Raises:
        FormatError: files are missing, damaged, of another schema, or do not fit the model.
    """
    facts, tensors = _read(Path(folder))
    bases = SharedBases()
    made: dict[int, PredictedLayer] = {}  # by the dense weight, which several layers may share
    try:
        model = split_named(copy.deepcopy(model), facts["layers"])
        dense: dict[str, Any] = dict(convertible_layers(model))
        for name, layer_facts in facts["layers"].items():
            if name not in dense:
                raise FormatError(f"{folder}: the model has no dense layer {name!r} to predict")
            layer = _rebuild(name, dense[name], layer_facts, tensors, bases)
            if (twin := made.setdefault(id(dense[name].weight), layer)) is not layer:
                layer.tie(twin)
            if layer.bias is not None:
                layer.bias = dense[name].bias  # itself, for it may be tied
            holder = nn.ModuleDict({"model": model})
            replace_module(holder, dense[name], layer)
            model = holder["model"]
        _fill(model, tensors, facts["ties"], folder)
        for name, layer in predicted_layers(model).items():
            stored = facts["layers"][name]
            _check_fingerprint(name, layer, stored["fingerprint"], stored["dtype"])
    except FormatError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{folder}: {JSON_NAME} lacks or garbles {error}") from error
    except (ValueError, RuntimeError, IndexError) as error:
        raise FormatError(f"{folder}: {error}") from error
    return model


def saved_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes of a saved folder's files."""
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes on disk: a dense network's safetensors file, a predicted network's whole folder."""
    with tempfile.TemporaryDirectory() as folder:
        if predicted_layers(model):
            save(model, Path(folder) / "model")
            return saved_bytes(Path(folder) / "model")
        file = Path(folder) / TENSORS_NAME
        save_file(_unique_tensors(dict(model.state_dict()))[0], file)
        return file.stat().st_size


def _layer_facts(layer: PredictedLayer) -> dict[str, Any]:
    rule = layer.rule
    try:
        rule_data = encode(rule)
    except ValueError:  # holds an estimator; its atoms are stored all the same
        rule_data = encode(Rule(StoredAtoms(), rule.fraction, rule.columns, rule.grid, rule.path))
    kind = type(layer).__name__
    dtype = str(layer.V.dtype).removeprefix("torch.")
    return {"class": kind, "rule": rule_data, "fingerprint": _fingerprint(layer), "dtype": dtype}


def _stored_state(model: nn.Module, layers: dict[str, PredictedLayer]) -> dict[str, Tensor]:
    """The state dict without what can be rebuilt; indices as int32, other bases as their atoms."""
    state = dict(model.state_dict())
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        rebuildable, base = layer.rule.dictionary.rebuildable, layer.atoms.base
        for key in layer.state_dict():
            if key == "atoms.indices":
                state[prefix + key] = state[prefix + key].to(torch.int32)
            elif key.startswith("atoms.base.") or (key == "atoms.mixing" and rebuildable):
                del state[prefix + key]
        if not rebuildable:
            everything = torch.arange(base.n_base, device=layer.V.device)
            atoms = base.atoms if isinstance(base, DenseBase) else base.rows(everything)
            state[f"{prefix}atoms.base.atoms"] = atoms
    return state


def _unique_tensors(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors once each, and the names that are tied to another."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            ties[name] = first[key]
        else:
            first[key] = name
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors, ties


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        facts = json.loads((folder / JSON_NAME).read_text())
        tensors = load_file(folder / TENSORS_NAME)
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = next(n for n in (JSON_NAME, TENSORS_NAME) if not (folder / n).is_file())
        raise FormatError(f"{folder} is no saved model: {missing} is missing") from error
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{folder} is damaged: {error}") from error
    schema = facts.get("schema") if isinstance(facts, dict) else None
    if schema != SCHEMA:
        raise FormatError(
            f"{folder} has schema {schema!r}, this version of weightcast reads schema {SCHEMA}"
        )
    return facts, tensors


def _rebuild(
    name: str, dense: Any, facts: dict[str, Any], tensors: dict[str, Tensor], bases: SharedBases
) -> PredictedLayer:
    """The predicted layer for a dense one: base and mixing from rule and indices, or as stored."""
    prefix = f"{name}." if name else ""
    kind = predicted_class(dense)
    assert kind is not None
    if facts["class"] != kind.__name__:
        raise FormatError(
            f"layer {name!r} was saved as a {facts['class']}, the model has a "
            f"{type(dense).__name__} there"
        )
    rule = decode(Rule, facts["rule"], f"layer {name!r}")
    indices = tensors[f"{prefix}atoms.indices"].to(torch.int64)
    n_visible, _ = layer_size(dense)
    expected = (rule.columns, count_atoms(rule.fraction, n_visible))
    if tuple(indices.shape) != expected:
        raise FormatError(
            f"layer {name!r}: indices are {tuple(indices.shape)}, the rule makes them {expected}"
        )
    atoms = None
    if not rule.dictionary.rebuildable:
        base = DenseBase(
            tensors[f"{prefix}atoms.base.atoms"], learned=isinstance(rule.dictionary, LowRank)
        )
        if base.n_visible != n_visible:
            raise FormatError(
                f"layer {name!r}: the stored base is for {base.n_visible} inputs, not {n_visible}"
            )
        atoms = Atoms(base, indices, tensors.get(f"{prefix}atoms.mixing"))
    return kind.from_dense(dense, rule, bases=bases, indices=indices, atoms=atoms)


def _fill(model: nn.Module, tensors: dict[str, Tensor], ties: dict[str, str], folder: Any) -> None:
    """Copy the saved tensors into the model; every name must have its place and shape."""
    state = model.state_dict()
    rebuilt = {
        f"{name}.{key}".lstrip(".")
        for name, layer in predicted_layers(model).items()
        for key in layer.state_dict()
        if key.startswith("atoms.") and layer.rule.dictionary.rebuildable
    }
    saved = tensors | {alias: tensors[name] for alias, name in ties.items()}
    unknown, missing = sorted(set(saved) - set(state)), sorted(set(state) - set(saved) - rebuilt)
    if unknown or missing:
        raise FormatError(
            f"{folder} does not fit the model: missing {missing[:5]}, unexpected {unknown[:5]}"
        )
    for key, tensor in saved.items():
        if state[key].shape != tensor.shape:
            raise FormatError(
                f"{folder}: {key} is {tuple(tensor.shape)}, the model has {tuple(state[key].shape)}"
            )
        state[key].copy_(tensor)


def _fingerprint(layer: PredictedLayer) -> list[float]:
    """Three sums over U that tell one dictionary, or one order of its atoms, from another."""
    sums = [0.0, 0.0, 0.0]
    for column in range(layer.atoms.columns):  # one at a time: all of U may not fit in memory
        U = layer.atoms.dictionary(column).detach().to("cpu", torch.float64)
        order = torch.arange(U.numel(), dtype=torch.float64).view(U.shape) + column * U.numel()
        for i, part in enumerate((U, U.square(), U * torch.cos(order))):
            sums[i] += float(part.sum())
    return sums


def _check_fingerprint(
    name: str, layer: PredictedLayer, stored: list[float], stored_dtype: str
) -> None:
    if not layer.rule.dictionary.rebuildable:
        return
    rebuilt = _fingerprint(layer)
    energy = max(stored[1], 1e-300)
    # Sums of n entries differ by their rounding; a wrong dictionary differs by its whole energy.
    n_entries = layer.atoms.indices.numel() * layer.n_visible
    dtypes = (layer.V.dtype, getattr(torch, stored_dtype))
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    tolerance = 8 * eps * (n_entries * energy) ** 0.5 + 1e-6 * energy
    if any(not abs(a - b) <= tolerance for a, b in zip(rebuilt, stored, strict=True)):
        raise FormatError(
            f"layer {name!r}: the rebuilt dictionary has fingerprint {rebuilt}, the saved one "
            f"{stored}: the file is damaged, or was written by another version"
        )


def _swap_in(part: Path, target: Path) -> None:
    """Put the finished folder in place of the old one, if there is one."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(old / "replaced")
        part.rename(target)
        shutil.rmtree(old)
    else:
        part.rename(target)
    parent = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
