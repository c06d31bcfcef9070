"""Contents: what objects hold, noted before a run and put back after it."""

from __future__ import annotations

import random
import sys
import types
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightcast.inputs.store import lazy_copy

_OPAQUE = (type, nn.Module, nn.Parameter, types.ModuleType, types.FunctionType, types.MethodType)


class Contents:
    """Lists, dictionaries, sets, arrays, tensors, generators, and the attributes of objects.

    All that is found below some values is noted, each once; modules and what they are made of are
    not entered. :meth:`restore` puts it back into the same objects. An object that keeps its state
    out of Python's reach, as an iterator does, stays as it is left.
    """

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}  # held, so that no other object takes an address
        self._undo: list[Callable[[], object]] = []

    def note(self, values: Iterable[Any]) -> None:
        """Note what these values hold, and what that holds."""
        left = list(values)
        while left:
            value = left.pop()
            if isinstance(value, (*_PLAIN, *_OPAQUE)) or id(value) in self._known:
                continue
            self._known[id(value)] = value
            undo = _undo_items(value), _undo_attributes(value)
            self._undo += [part for part in undo if part is not None]
            if isinstance(value, dict):
                left += value.values()
            elif isinstance(value, (list, tuple, set, frozenset, deque)):
                left += value
            left += (_attributes(value) or {}).values()
            left += [getattr(value, name, None) for name in _slots(value)]

    def restore(self) -> None:
        """Put everything back."""
        for undo in self._undo:
            undo()


_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


# Whose objects lead to the whole process, or to a trainer and its data; state of none of a model's.
_OTHERS = {"torch", "numpy", "pytorch_lightning", "lightning", *sys.stdlib_module_names}
_OURS = (types.SimpleNamespace, UserDict, UserList)


def _attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of an object that may be a model's own."""
    own = getattr(value, "__dict__", None)
    other = type(value).__module__.partition(".")[0] in _OTHERS and not isinstance(value, _OURS)
    return None if other or isinstance(value, Tensor) or not isinstance(own, dict) else own


def _slots(value: Any) -> list[str]:
    named = [vars(cls).get("__slots__", ()) for cls in type(value).__mro__]
    found = (n for names in named for n in ((names,) if isinstance(names, str) else names))
    return [name for name in found if not name.startswith("__")]


def _undo_items(value: Any) -> Callable[[], object] | None:
    if isinstance(value, Tensor):
        return _undo_tensor(value)
    if isinstance(value, (torch.Generator, np.random.RandomState)):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return partial(np.copyto, value, value.copy()) if value.flags.writeable else None
    if isinstance(value, (list, bytearray)):
        return partial(value.__setitem__, slice(None), value[:])
    kind: Any = next((k for k in (OrderedDict, dict, set, deque) if isinstance(value, k)), None)
    return None if kind is None else partial(_refill, value, kind, kind(value))


def _refill(value: Any, kind: Any, kept: Any) -> None:
    """Fill a container by its own kind's methods, whatever a subclass makes of them."""
    kind.clear(value)
    (kind.extend if kind is deque else kind.update)(value, kept)


def _undo_attributes(value: Any) -> Callable[[], object] | None:
    slots = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
    own = _attributes(value)
    if not slots and own is None:
        return None
    kept = dict(own or {})

    def undo() -> None:
        if own is not None and (
            own.keys() != kept.keys() or any(own[name] is not kept[name] for name in kept)
        ):
            own.clear()
            own.update(kept)
        for name, before in slots.items():
            if getattr(value, name, None) is not before:
                object.__setattr__(value, name, before)

    return undo


def _undo_tensor(value: Tensor) -> Callable[[], object] | None:
    """A copy where nothing changed would upset autograd."""
    if value.is_inference() or value.is_meta or value.layout != torch.strided:
        return None
    kept, version = lazy_copy(value.detach()), value._version

    def undo() -> None:
        if value._version != version:
            with torch.no_grad():
                value.copy_(kept)

    return undo
