"""Example inputs: batches in the forms that training loops have, and a model called with one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


class InputsError(ValueError):
    """Inputs that a model takes, but that what is asked of them cannot be made of."""


def check_finite(rows: Tensor) -> Tensor:
    """The rows.

    Raises:
        ValueError: NaN or infinite values.
    """
    if not bool(rows.isfinite().all()):
        raise InputsError(
            f"{int((~rows.isfinite()).sum())} of {rows.numel()} input values are NaN or "
            "infinite: clean the inputs"
        )
    return rows


def as_batches(inputs: Any) -> list[Any]:
    """Example inputs as a list of batches, so that several layers can be fed from them in turn.

    A single tensor, or a single mapping, is one batch. All batches are held in memory: a few
    thousand examples are enough for any dictionary.

    Raises:
        ValueError: no batch at all, what is none, or one ``(input, target)`` pair in place of a
            list of them.
    """
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[1], Tensor):
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
    batches = [inputs] if isinstance(inputs, (Tensor, Mapping)) else list(inputs)
    if not batches:
        raise ValueError("inputs is empty: pass at least one batch of example inputs")
    return batches


def model_input(batch: Any) -> Any:
    """What a model is called with: the batch itself, or the first entry of (input, target, ...)."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def call(model: nn.Module, batch: Any) -> Any:
    """The model on one batch: a tensor, (input, target, ...), or a mapping of keywords.

    It gets a copy, for it may change what it is given, and the batch is for other runs too.

    Raises:
        ValueError: the model fails on it; the message names the module that failed.
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
    """The value with its tensors changed, also those in tuples, lists and dictionaries.

    A tensor that is there twice is changed once.
    """
    changed: dict[int, Tensor] = {}

    def visit(part: Any) -> Any:
        if isinstance(part, Tensor):
            if id(part) not in changed:
                changed[id(part)] = change(part)
            return changed[id(part)]
        if type(part) in (tuple, list):
            return type(part)(map(visit, part))
        return {key: visit(entry) for key, entry in part.items()} if type(part) is dict else part

    return visit(value)


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
    """A method of one of a model's modules, on the way to an error.

    Args:
        name: of the module; empty for the model itself.
        kind: its class.
        method: that was running.
        line: where, in the file of its source.
    """

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
    where = f"in {type(model).__name__}.forward"
    for step in calls_to(model, error):
        if step.name:
            where = f"in module {step.name!r} ({step.kind})"
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
    if isinstance(batch, (tuple, list)) and batch:
        return _shapes(batch[0])
    return f"of type {type(batch).__name__}"
