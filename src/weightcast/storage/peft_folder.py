"""export_peft and import_peft: what was adapted as the LoRA adapter that PEFT and servers load.

    x U V = x A^T B^T      A: every column's atoms as rows, B: V, block by block

So columns become rank. All modules get one rank, by rows and columns of zeros, and alpha is that
rank, for servers that read neither patterns nor scales. What is relative to W0 becomes PEFT's HiRA,
of the same A and B. PEFT itself is not needed.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weightcast.dictionaries import LowRank
from weightcast.files import atomic_folder, write_text
from weightcast.layers import (
    AdaptedLayer,
    PredictedConv1d,
    PredictedConv2d,
    PredictedConv3d,
    PredictedEmbedding,
    PredictedLayer,
    PredictedLinear,
    PredictedModule,
    PredictedTransposedLinear,
    adapted_layers,
    is_freed,
    view,
)
from weightcast.layers.models import Model
from weightcast.layers.rule import Rule
from weightcast.plan.eligibility import convertible_layers
from weightcast.serialization import nearest
from weightcast.storage.format_error import FormatError, excerpt, naming, parse_json, refusing
from weightcast.transform.adapt import adapt

_CONFIG, _TENSORS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
_CONVOLUTIONS = (PredictedConv1d, PredictedConv2d, PredictedConv3d)
_HELD = (PredictedLinear, PredictedTransposedLinear, PredictedEmbedding, *_CONVOLUTIONS)
_KINDS = {False: "LoRA", True: "HiRA"}  # what PEFT calls U V beside W0, and relative to it
_ENDS = {"lora": ".weight", "hira": ""}  # LoRA's factors are modules, HiRA's parameters
_OTHERS = (
    "use_dora", "use_qalora", "lora_bias", "layer_replication", "trainable_token_indices",
    "alora_invocation_tokens", "use_bdlora", "kasa_config", "target_parameters", "arrow_config",
)  # fmt: skip
"""Fields of LoRA's variants that add something else than B A."""


def export_peft(model: nn.Module, folder: str | os.PathLike[str], *, max_rank: int = 512) -> None:
    """Write an adapted model's adapter as PEFT writes LoRA's, for ``PeftModel.from_pretrained``.

    Where all rules are relative it is as PEFT writes HiRA's.

    Outputs are the same up to rounding. Its size is rank (n_visible + n_units) numbers a layer, the
    rank being columns * n_atoms, and n_visible at most; ``save`` writes V and one U for all layers
    of the same inputs. Heads and other freed parameters go into ``modules_to_save``.

    Args:
        model: as :func:`adapt` made it, and trained.
        folder: to write, whole or not at all; an adapter that is there is replaced.
        max_rank: above which a warning tells the rank: vLLM, for one, takes 512 at most, and 16
            unless it is told.

    Raises:
        ValueError: a layer or parameter that PEFT cannot hold, by name, or a folder of other files.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model holds nothing adapted: wc.adapt makes what PEFT can load")
    for name, layer in layers.items():
        _refuse_layer(name, layer, model)
    kind = _kind(layers)
    factors = {name: _factors(layer.delta) for name, layer in layers.items()}
    groups = math.lcm(*(getattr(layer.delta, "groups", 1) for layer in layers.values()))
    rank = max(A.shape[0] for A, _ in factors.values())
    rank = -(-rank // groups) * groups
    if rank > max_rank:
        warnings.warn(
            f"the adapter's rank is {rank}, above {max_rank}: servers may refuse it; take fewer "
            "columns or atoms",
            stacklevel=2,
        )
    tensors: dict[str, Tensor] = {}
    for name, (A, B) in factors.items():
        written = _written(layers[name].delta, A, B, rank, kind)
        tensors |= {f"{_PREFIX}{name}.{key}": x.contiguous() for key, x in written.items()}
    saved = _freed_modules(model)
    for name in saved:
        state = model.get_submodule(name).state_dict()
        tensors |= {f"{_PREFIX}{name}.{key}": x.clone() for key, x in state.items()}
    config = {
        "peft_type": kind.upper(),
        "task_type": None,
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "r": rank,
        "target_modules": _targets(model, list(layers)),
        "modules_to_save": saved or None,
        "fan_in_fan_out": any(
            isinstance(layer.delta, PredictedTransposedLinear) for layer in layers.values()
        ),
    }
    if kind == "LoRA":
        config |= {"lora_alpha": rank, "lora_dropout": 0.0, "bias": "none"}
    with atomic_folder(Path(folder), _refuse_folder) as part:
        write_text(part / _CONFIG, json.dumps(config, indent=2))
        save_file(tensors, part / _TENSORS, metadata={"format": "pt"})


def import_peft(folder: str | os.PathLike[str], model: Model) -> Model:
    """The adapted model that a LoRA or HiRA adapter of PEFT's makes of its network, exactly.

    A becomes the learned U of a :class:`LowRank` dictionary, and scale times B becomes V; ranks and
    alphas of single modules and rsLoRA's scale are read, zeros that fill up a rank left out. HiRA's
    rules are relative.

    Args:
        folder: that PEFT, or :func:`export_peft`, wrote; nothing in it is executed.
        model: the network that was adapted; W0 is its own memory.

    Raises:
        FormatError: another method than these two, a variant that adds something else than B A, or
            tensors that do not fit the model.
    """
    with naming(folder), refusing("cannot be read as an adapter"):
        config, tensors = _read(Path(folder))
        layers = convertible_layers(model, predicted=True)
        factors, rest = _parts(config, tensors, layers)
        rule = partial(Rule, LowRank(), relative=config["peft_type"] == "HIRA")
        rules = {name: rule(n_atoms=len(A)) for name, (A, _) in factors.items()}
        modules = dict(model.named_modules())
        owners = {key: _owner(key, modules) for key in rest}
        adapted = adapt(model, rules, heads=dict.fromkeys(owners.values()))
        state = adapted.state_dict()
        with torch.no_grad():
            for name, (A, B) in factors.items():
                delta = adapted_layers(adapted)[name].delta
                base: Any = delta.atoms.base
                base.atoms.copy_(A)
                delta.V.copy_(B.t())
            for key, value in rest.items():
                if state[key].shape != value.shape:
                    raise FormatError(f"does not fit: {key!r} is {tuple(value.shape)}")
                state[key].copy_(value)
    return adapted


def _refuse_layer(name: str, layer: AdaptedLayer, model: nn.Module) -> None:
    owner = model.get_submodule(name.rpartition(".")[0])
    kind = type(owner.module if isinstance(owner, PredictedModule) else layer.frozen).__name__
    held = type(layer.delta) in _HELD and not isinstance(owner, PredictedModule)
    spread = any(d != 1 for d in getattr(layer.delta, "dilation", ()))
    relative = layer.delta.rule.relative
    grouped = relative and getattr(layer.delta, "groups", 1) != 1
    padded = getattr(layer.delta, "padding_mode", "zeros") != "zeros"
    if not held or spread or grouped or padded:
        raise ValueError(
            f"layer {name!r} ({kind}) cannot be held by PEFT's {_KINDS[relative]}: leave it out of "
            "the plan, or call weightcast.merge and give the dense weights away"
        )


def _kind(layers: Mapping[str, AdaptedLayer]) -> str:
    relative = {layer.delta.rule.relative for layer in layers.values()}
    if len(relative) > 1:
        raise ValueError("some rules are relative: PEFT holds one kind in a folder, LoRA or HiRA")
    return _KINDS[relative.pop()]


@torch.no_grad()
def _factors(delta: PredictedLayer) -> tuple[Tensor, Tensor]:
    """A (rank, n_visible) and B (n_units, rank) with B A = (U V)^T, exactly; the rank is least."""
    atoms, n_visible = delta.atoms, delta.n_visible
    size = atoms.columns * atoms.n_atoms
    if getattr(delta, "groups", 1) == 1 and size >= n_visible:
        W = delta.view.filters()
        return torch.eye(n_visible).to(W), W
    A = torch.cat([atoms.dictionary(column).t() for column in range(atoms.columns)])
    B = A.new_zeros(delta.n_units, size)
    for column, units in enumerate(delta.unit_slices()):
        place = slice(column * atoms.n_atoms, (column + 1) * atoms.n_atoms)
        B[units, place] = delta.V[:, units].t()
    return _by_group(delta, A, B)


def _by_group(delta: Any, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Of a convolution's groups: atoms on all channels, those of each group for its units alone."""
    groups = getattr(delta, "groups", 1)
    if groups == 1:
        return A, B
    own = [part.any(dim=0).nonzero().flatten() for part in B.chunk(groups)]
    each = max(1, *map(len, own))
    n_visible = A.shape[1]
    wide, narrow = A.new_zeros(groups * each, groups * n_visible), B.new_zeros(len(B), each)
    for group, atoms in enumerate(own):
        units = slice(group * len(B) // groups, (group + 1) * len(B) // groups)
        rows = slice(group * each, group * each + len(atoms))
        wide[rows, group * n_visible : (group + 1) * n_visible] = A[atoms]
        narrow[units, : len(atoms)] = B[units][:, atoms]
    return wide, narrow


def _written(delta: Any, A: Tensor, B: Tensor, rank: int, kind: str) -> dict[str, Tensor]:
    """PEFT's two tensors of a layer, filled up to a rank."""
    groups = getattr(delta, "groups", 1)
    each, n_inputs = rank // groups, A.shape[1]
    A = nn.functional.pad(A.view(groups, -1, n_inputs), (0, 0, 0, each - len(A) // groups))
    A, B = A.reshape(rank, n_inputs), nn.functional.pad(B, (0, each - B.shape[1]))
    kind = kind.lower()
    if isinstance(delta, PredictedEmbedding):
        return {f"{kind}_embedding_A": B.t(), f"{kind}_embedding_B": A.t()}
    if isinstance(delta, _CONVOLUTIONS):
        A = A.view(rank, -1, *delta.kernel_size)
        B = B.view(*B.shape, *[1] * delta.n_axes)
    return {f"{kind}_A{_ENDS[kind]}": A, f"{kind}_B{_ENDS[kind]}": B}


def _freed_modules(model: nn.Module) -> list[str]:
    """Modules that hold freed parameters, beside what adapts; ValueError for part of a layer."""
    inside = {id(m): n for n, a in adapted_layers(model).items() for m in a.frozen.modules()}
    deltas = {id(m) for a in adapted_layers(model).values() for m in a.delta.modules()}
    saved = []
    for name, module in model.named_modules():
        if id(module) in deltas:
            continue
        for key, p in module.named_parameters(recurse=False):
            if is_freed(p) and id(module) in inside:
                raise ValueError(
                    f"{key!r} of layer {inside[id(module)]!r} was freed, and PEFT cannot hold it "
                    "beside A and B: adapt without free=['bias']"
                )
        if any(map(is_freed, module.parameters(recurse=False))):
            saved.append(name)
    return saved


def _targets(model: nn.Module, names: list[str]) -> list[str] | str:
    """The adapted layers' names; an expression where one of them ends another module's name."""
    ends = tuple(f".{name}" for name in names)
    if any(name.endswith(ends) and name not in names for name, _ in model.named_modules()):
        return "|".join(map(re.escape, names))
    return names


def _refuse_folder(folder: Path) -> None:
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"{folder} exists and holds no adapter: choose a new folder")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and tensors of a folder; FormatError for what is not plain."""
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            raise FormatError(f"is no adapter of PEFT's: {name} is missing")
    config = parse_json((folder / _CONFIG).read_bytes(), _CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") not in ("LORA", "HIRA"):
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise FormatError(f"holds {excerpt(kind)}, and only LORA and HIRA are read")
    for field in _OTHERS:
        if config.get(field):
            raise FormatError(f"has {field}, which adds something else than B A")
    try:
        return config, load_file(folder / _TENSORS)
    except SafetensorError as error:
        raise FormatError(f"is damaged: {_TENSORS}: {excerpt(error)}") from error


def _parts(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Module]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """A (rank, n_visible) and scaled B (n_units, rank) of every layer; and all other tensors."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    rest = {key.removeprefix(_PREFIX): x for key, x in tensors.items()}
    kind = config["peft_type"].lower()
    for key in [key for key in rest if f".{kind}_" in f".{key}"]:
        name, _, part = key.rpartition(f".{kind}_")
        if name not in layers:
            raise FormatError(f"does not fit: no layer {name!r}{nearest(name, layers)}")
        if part == f"A{_ENDS[kind]}":
            A, B = rest.pop(key), rest.pop(f"{name}.{kind}_B{_ENDS[kind]}")
        elif part == "embedding_A":
            B, A = rest.pop(key).t(), rest.pop(f"{name}.{kind}_embedding_B").t()
        elif part in (f"B{_ENDS[kind]}", "embedding_B"):
            continue
        else:
            raise FormatError(f"holds {key!r}, which adds something else than B A")
        B = B * _scale(config, name, len(A))
        factors[name] = _fitted(name, layers[name], A.flatten(1).double(), B.flatten(1).double())
    return factors, rest


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / r of a module, or alpha / sqrt(r) of rsLoRA's; HiRA has none."""
    if config["peft_type"] == "HIRA":
        return 1.0
    patterns = config.get("alpha_pattern") or {}
    own = (a for k, a in patterns.items() if re.match(rf"(.*\.)?({k})$", name))
    alpha = next(own, config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _fitted(name: str, layer: Any, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A and B without zeros, in the layer's sizes; at most as many atoms as inputs."""
    n_visible, n_units = view(layer).sizes
    if getattr(layer, "groups", 1) > 1:
        raise FormatError(f"adapts {name!r}, whose groups have an A each: not read")
    if A.shape[1] != n_visible or B.shape != (n_units, len(A)):
        raise FormatError(
            f"does not fit: layer {name!r} has {n_visible} inputs and {n_units} units, its A is "
            f"{tuple(A.shape)} and B {tuple(B.shape)}"
        )
    used = (A.any(dim=1) & B.any(dim=0)).nonzero().flatten()
    used = used if len(used) else torch.tensor([0])
    A, B = A[used], B[:, used]
    return (torch.eye(n_visible).to(A), B @ A) if len(A) > n_visible else (A, B)


def _owner(key: str, modules: Mapping[str, nn.Module]) -> str:
    """The module that holds a tensor of ``modules_to_save``."""
    name = key.rpartition(".")[0]
    if name not in modules:
        raise FormatError(f"does not fit: the model has no module for {excerpt(key)}")
    return name
