"""Example inputs: batches in the forms that training loops have, and a model called with one."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from weightcast.inputs.progress import Progress

MAX_BATCHES = 1_000
"""Batches that are read of inputs without a length, which may be endless."""

MAX_BYTES = 4 * 2**30
"""Bytes of tensors after which no further batch of such inputs is read."""

EXAMPLES_PER_PASS = 100
"""A single tensor of inputs is cut into batches of this size where it is trained on."""


class InputsError(ValueError):
    """Inputs on which the model runs, but from which the result asked for cannot be computed."""


def check_finite(rows: Tensor) -> Tensor:
    """The rows, unless some are NaN or infinite: then an :class:`InputsError`."""
    if not bool(rows.isfinite().all()):
        raise InputsError(
            f"{int((~rows.isfinite()).sum())} of {rows.numel()} input values are NaN or "
            "infinite: clean the inputs"
        )
    return rows


def as_batches(inputs: Any, *, progress: bool = True) -> list[Any]:
    """Example inputs as a list of batches, all in memory.

    One tensor, mapping, named tuple or packed sequence is one batch.

    Inputs with a length give as many batches as it says. Without one, as a generator or a loader
    that draws forever, they are read up to :data:`MAX_BATCHES`, or :data:`MAX_BYTES` of tensors,
    with a warning where that leaves some out, and with progress on stderr if it takes long.

    Raises:
        ValueError: no batch, no example inputs, or one ``(input, target)`` pair outside a list.
    """
    if type(inputs) is tuple and len(inputs) == 2 and isinstance(inputs[1], Tensor):
        image, target = inputs
        if not target.is_floating_point() or target.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"inputs is one pair of shapes {tuple(image.shape)} and {tuple(target.shape)}, "
                "which looks like one (input, target) batch: pass a list of batches, [batch]"
            )
    if not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
        raise ValueError(
            f"inputs is {inputs!r}: pass a batch of example inputs, a tensor, or a list of batches"
        )
    single = isinstance(inputs, (Tensor, Mapping)) or hasattr(inputs, "_fields")  # a named tuple
    batches = [inputs] if single else _read(inputs, progress)
    if not batches and isinstance(inputs, Iterator):
        raise ValueError(
            f"inputs is a {type(inputs).__name__} that gave nothing: it was used up before; pass a "
            "list or a DataLoader"
        )
    if not batches:
        raise ValueError("inputs is empty: pass at least one batch of example inputs")
    return batches


def cut(inputs: Any) -> Any:
    """One tensor as batches of :data:`EXAMPLES_PER_PASS`; all else as it is."""
    if not isinstance(inputs, Tensor) or inputs.dim() == 0:
        return inputs
    return list(inputs.split(EXAMPLES_PER_PASS)) if len(inputs) else []


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device; a mapping becomes a dictionary."""
    given = dict(batch) if isinstance(batch, Mapping) else batch
    return with_tensors(given, lambda x: x.to(device))


def _read(inputs: Any, progress: bool) -> list[Any]:
    """The batches of inputs that are no single batch."""
    try:
        length = len(inputs)
    except (TypeError, NotImplementedError):  # both are in use for what has none
        return _read_without_length(inputs, progress)
    return list(islice(inputs, length))


def _read_without_length(inputs: Iterable[Any], progress: bool) -> list[Any]:
    batches, n_bytes = [], 0
    shown = Progress("reading inputs:", MAX_BATCHES, show=progress)  # in lines: few take long
    for batch in inputs:
        if len(batches) == MAX_BATCHES or n_bytes >= MAX_BYTES:
            _warn_of_rest(len(batches), n_bytes)
            break
        batches.append(batch)
        n_bytes += sum(x.numel() * x.element_size() for x in given_tensors(batch))
        if len(batches) % 100 == 0:
            shown.say(f"{len(batches):,} batches of {MAX_BATCHES:,} at most")
    return batches


def _warn_of_rest(n_batches: int, n_bytes: int) -> None:
    warnings.warn(
        f"inputs has no length and goes on after {n_batches:,} batches ({n_bytes / 2**20:,.1f} "
        f"MiB): the rest is left out, for at most {MAX_BATCHES:,} batches or "
        f"{MAX_BYTES / 2**30:g} GiB of such inputs are read; pass a list to choose yourself, as "
        "list(itertools.islice(inputs, 50))",
        stacklevel=6,
    )


def model_input(batch: Any) -> Any:
    """What a model is called with: the batch itself, or the first entry of (input, target, ...)."""
    return batch[0] if is_pair(batch) else batch


def is_pair(batch: Any) -> bool:
    """Whether a batch is (input, target, ...); named tuples and packed sequences are inputs."""
    return type(batch) in (tuple, list)


def call(model: nn.Module, batch: Any) -> Any:
    """The model on a copy of one batch, for it may change what it is given.

    Raises:
        ValueError: the model fails on it, naming the module that failed.
    """
    try:
        if isinstance(batch, Mapping):
            return model(**with_tensors(dict(batch), Tensor.clone))
        return model(with_tensors(model_input(batch), Tensor.clone))
    except (torch.OutOfMemoryError, InputsError):
        raise
    except Exception as error:
        raise ValueError(_failure(model, batch, error)) from error


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a value with its tensors changed, each once, whatever it is that holds them.

    Tensors are found in containers of every kind and in the attributes of objects. An object that
    cannot be copied, as one with a lock, is passed on itself, with a warning.
    """
    copies: dict[int, Any] = {}

    def visit(part: Any) -> Any:
        if type(part) in (tuple, list):
            return type(part)(map(visit, part))
        if type(part) is dict:
            return {key: visit(entry) for key, entry in part.items()}
        if isinstance(part, Tensor):
            if id(part) not in copies:
                copies[id(part)] = change(part)
            return copies[id(part)]
        if isinstance(part, PackedSequence):  # its batch_sizes stay on the CPU
            moved = map(visit, (part.data, *part[2:]))
            return part._replace(**dict(zip(("data", *part._fields[2:]), moved, strict=True)))
        try:
            return copy.deepcopy(part, copies)
        except Exception as error:  # of an object's own way to be copied, or for want of one
            warnings.warn(
                f"a batch holds a {type(part).__name__} that cannot be copied ({error}): what the "
                "model changes of it stays changed",
                stacklevel=2,
            )
            return part

    with _Changing(change):
        return visit(value)


def given_tensors(batch: Any) -> list[Tensor]:
    """All tensors of a batch, each once, whatever it is that holds them."""
    found: list[Tensor] = []
    with_tensors(batch, lambda x: found.append(x) or x)
    return found


class _Changing(TorchFunctionMode):
    """Within, a deep copy holds tensors that are changed in place of copied ones."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:  # the copy that deepcopy keeps, for others that hold it
            return args[1].setdefault(id(args[0]), self.change(args[0]))
        return func(*args, **(kwargs or {}))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of what a model takes or returns: in mappings, tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


@dataclass(frozen=True)
class Call:
    """A module's method on the way to an error; the model's own name is empty."""

    name: str
    kind: str
    method: str
    line: int


def calls_to(model: nn.Module, error: BaseException) -> Iterator[Call]:
    """The calls of a model's modules that led to an error, outermost first."""
    names = {id(module): name for name, module in model.named_modules()}
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if id(module) in names:
            yield Call(names[id(module)], type(module).__name__, frame.f_code.co_name, line)


def _failure(model: nn.Module, batch: Any, error: Exception) -> str:
    """Which module failed, on what, and what to do about it."""
    steps = [
        f"in module {step.name!r} ({step.kind})" for step in calls_to(model, error) if step.name
    ]
    where = steps[-1] if steps else f"in {type(model).__name__}.forward"
    return (
        f"the model failed on its inputs {_shapes(batch)}, {where}: {type(error).__name__}: "
        f"{error}. Pass batches as the model itself takes them: a tensor, (input, target), or a "
        "mapping of its keyword arguments"
    )


def _shapes(batch: Any) -> str:
    """What a batch holds, in words."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {_shapes(value)}" for key, value in batch.items())
    if is_pair(batch) and batch:
        return _shapes(batch[0])
    return f"of type {type(batch).__name__}"
