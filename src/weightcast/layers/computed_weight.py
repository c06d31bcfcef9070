"""ComputedWeight: what ``layer.weight`` is of a predicted layer, and refuses to be written into.

The weight is computed from V at each access. Whoever changed that tensor in place
(``layer.weight.data.add_(1)``, ``nn.init.zeros_(layer.weight)``) would change a copy, and the layer
not at all: a merged adapter or an initialiser would be lost without a word. So such writes are
errors. All else is as with a plain tensor, and what is computed from it is one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor

READ_ONLY = (
    "a predicted layer's weight is computed from V, and what is written into it would be lost: "
    "call wc.merge(model) first, whose dense layers have weights of their own, or change V"
)

_IN_PLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
_IN_PLACE |= {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")} | {"__setitem__"}
_HARMLESS = {"requires_grad_", "share_memory_"}  # they change no values


class _Kin(type(Tensor)):
    """torch.testing compares tensors where one's class is the other's: here all tensors are."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


class ComputedWeight(Tensor, metaclass=_Kin):
    """A tensor whose values cannot be changed, nor through its views.

    A parameter made of one can be: it is a weight of its own. So can, unseen, what leaves torch:
    the array of ``numpy()``, or memory that ``data_ptr()`` names.
    """

    _is_hf_initialized = True
    """Lets transformers leave it alone when it draws the weights that no file had."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run the operation, or refuse it by a ``ValueError`` if it writes into one of these."""
        kwargs = kwargs or {}
        if any(_is_guarded(target) for target in _written(func, args, kwargs)):
            raise ValueError(READ_ONLY)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            # A view has the memory of what it is of, and so has .data.
            memory = [_address(tensor) for tensor in args[:1] if _is_guarded(tensor)]
            if memory and type(result) is Tensor and _address(result) == memory[0]:
                return result.as_subclass(cls)
        return result


def guarded(W: Tensor) -> Tensor:
    """The same tensor, guarded; as it is where a tracer looks on, or it has no memory to guard."""
    return W.as_subclass(ComputedWeight) if has_memory(W) else W


def has_memory(W: Tensor) -> bool:
    """Whether a tensor is plain, with values in memory, and no tracer or transform looks on."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    seen = traced or functorch.is_functorch_wrapped_tensor(W)
    return type(W) is Tensor and not W.is_meta and not seen


def _is_guarded(value: object) -> TypeGuard[Tensor]:
    return type(value) is ComputedWeight and not isinstance(value, torch.nn.Parameter)


def _written(
    func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> list[object]:
    """The tensors that a call of torch writes into."""
    name, targets = getattr(func, "__name__", ""), [kwargs.get("out")]
    if name == "__set__":  # of an attribute
        in_place = getattr(getattr(func, "__self__", None), "__name__", "") == "data"
    else:
        in_place = name in _IN_PLACE or (
            name.endswith("_") and not name.endswith("__") and name not in _HARMLESS
        )
    if in_place:
        targets += args[:1] or [kwargs.get("tensor")]
    lists = (target if isinstance(target, (list, tuple)) else [target] for target in targets)
    return list(chain.from_iterable(lists))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
