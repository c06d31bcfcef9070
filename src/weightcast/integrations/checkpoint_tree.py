"""A checkpoint as JSON data and tensors, and back: each value comes back as what it was.

Scalars and lists stand for themselves, the rest is an object with one entry, a tag and what it
needs: ``{"tensor": name}``, ``{"Counter": pairs}``. Classes are a fixed few, and of those that a
checkpoint names, enumerations and named tuples that this process has imported: none is imported, so
that reading runs no code.
"""

from __future__ import annotations

import enum
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import Tensor, nn

from weightcast.storage.tensors import DTYPES

__all__: list[str] = []  # what follows is for SafetensorsCheckpointIO alone

Add = Callable[[Tensor, tuple[Any, ...]], str]
"""Keeps a tensor that was found at a path; its name."""

_MAPPINGS: dict[str, Any] = {c.__name__: c for c in (dict, OrderedDict, Counter, AttributeDict)}
_SEQUENCES: dict[str, Any] = {c.__name__: c for c in (tuple, torch.Size, set, frozenset, deque)}
_WRITTEN = {"Fraction": Fraction, "Decimal": Decimal, "complex": complex, "device": torch.device}
_DTYPES = {str(d).partition(".")[2]: d for d in (*DTYPES.values(), torch.complex128)}
_READ: dict[str, Any] = {**_WRITTEN, "bytes": bytes.fromhex}
_MADE: dict[str, Any] = {c.__name__: c for c in (int, float, str, list, dict, set, Counter)}


def encode(value: Any, path: tuple[Any, ...], add: Add) -> Any:
    """JSON data of a value at a path; a ValueError names the place of what has none."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value

    def items(values: Any) -> list[Any]:
        return [encode(item, (*path, i), add) for i, item in enumerate(values)]

    def pairs(mapping: Any) -> list[Any]:
        return [
            [encode(key, path, add), encode(item, (*path, key), add)]
            for key, item in mapping.items()
        ]

    if kind is list:
        return items(value)
    if kind in (Tensor, nn.Parameter, nn.Buffer):
        return _tensor(value, add(value, path))
    if kind is np.ndarray and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return {"ndarray": add(torch.from_numpy(np.ascontiguousarray(value)), path)}
    found = _scalar(value, kind) or _container(value, kind, items, pairs)
    if found is not None:
        return found
    raise ValueError(
        f"the checkpoint's {join(path)} is a {kind.__name__}, which is no plain data: keep "
        "tensors, numbers, text, None, lists, tuples and dictionaries of these in checkpoints"
    )


def _tensor(value: Tensor, name: str) -> Any:
    if type(value) is nn.Parameter:
        return {"parameter": [name, value.requires_grad]}
    return {"leaf": name} if value.requires_grad else {"tensor": name}


def _scalar(value: Any, kind: Any) -> Any:
    """What holds nothing else, or None."""
    named = issubclass(kind, enum.Enum) and value.name in kind.__members__
    if named and _class_of(_place_of(kind)) is kind:
        return {"enum": [_place_of(kind), value.name]}
    if _WRITTEN.get(kind.__name__) is kind:
        return {kind.__name__: str(value)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is torch.dtype and value in _DTYPES.values():
        return {"dtype": str(value).partition(".")[2]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, np.generic) and value.dtype.kind in "biufU" and value.dtype.itemsize <= 8:
        return {"numpy": [value.dtype.str, value.item()]}
    return None


def _container(value: Any, kind: Any, items: Any, pairs: Any) -> Any:
    """What holds other values, which ``items`` and ``pairs`` encode, or None."""
    if kind is OrderedDict and hasattr(value, "_metadata"):  # torch's, on state dicts
        return {"state_dict": [pairs(value), {"dict": pairs(value._metadata)}]}
    if kind is defaultdict:
        name = getattr(value.default_factory, "__name__", "")
        known = _MADE.get(name) is value.default_factory
        return {"defaultdict": [name, pairs(value)]} if known else None
    if _MAPPINGS.get(kind.__name__) is kind:
        return {kind.__name__: pairs(value)}
    if kind is deque and value.maxlen is not None:
        return {"bounded": [items(value), value.maxlen]}
    if _SEQUENCES.get(kind.__name__) is kind:
        return {kind.__name__: items(value)}
    if hasattr(kind, "_fields") and _class_of(_place_of(kind)) is kind:
        return {"named": [_place_of(kind), items(value)]}
    return None


def decode(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`encode` was given."""
    if isinstance(data, list):
        return [decode(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    [(tag, content)] = data.items()

    def pairs(found: Any) -> Any:
        return ((decode(key, tensors), decode(item, tensors)) for key, item in found)

    if tag in _MAPPINGS:
        return _MAPPINGS[tag](dict(pairs(content)))
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(content, tensors))
    if tag in _READ:
        return _READ[tag](content)
    match tag:
        case "tensor":
            return tensors[content]
        case "parameter":
            return nn.Parameter(tensors[content[0]], content[1])
        case "leaf":  # apart from others of its name
            return tensors[content].detach().requires_grad_()
        case "ndarray":
            return tensors[content].numpy()
        case "state_dict":
            state: Any = OrderedDict(pairs(content[0]))
            state._metadata = decode(content[1], tensors)
            return state
        case "defaultdict":
            return defaultdict(_MADE[content[0]], pairs(content[1]))
        case "bounded":
            return deque(decode(content[0], tensors), content[1])
        case "named":
            return _class_of(content[0], "_make")._make(decode(content[1], tensors))
        case "enum":
            return _class_of(content[0], "__members__").__members__[content[1]]
        case "dtype":
            return _DTYPES[content]
        case "range":
            return range(*content)
        case "numpy":
            return np.dtype(content[0]).type(content[1])
    raise ValueError(f"unknown tag {tag!r}")


def join(path: tuple[Any, ...]) -> str:
    """A path as a tensor's name."""
    return "/".join(map(str, path))


def _place_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class_of(place: str, has: str = "") -> Any:
    """The class of an enumeration or a named tuple that this process has imported, or None."""
    module, _, names = place.partition(":")
    found: Any = sys.modules.get(module)
    for name in names.split("."):
        found = getattr(found, name, None)
    fits = isinstance(found, enum.EnumMeta) or (
        isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")
    )
    if has and not (fits and hasattr(found, has)):
        raise ValueError(f"{place} is not known here: import the module that defines it first")
    return found if fits else None
