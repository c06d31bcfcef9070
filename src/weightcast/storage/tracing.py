"""trace: a model as a graph without its own code, or an error that names what is in the way."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import calls_to

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_LOGGERS = ("onnx", "_subclasses.fake_tensor", "fx.experimental.symbolic_shapes")  # of torch


def trace(model: nn.Module, inputs: tuple[Tensor, ...], dynamic_batch: bool) -> ExportedProgram:
    """The model as a graph without weightcast's code, and without traces of this machine."""
    from torch import export

    shapes = None
    if dynamic_batch:
        batch = [x.dim() > 0 and x.shape[0] == inputs[0].shape[0] for x in inputs]
        # An axis of length 1 would be taken for one that is to be broadcast.
        inputs = tuple(
            x.repeat(2, *[1] * (x.dim() - 1)) if free and len(x) < 2 else x
            for x, free in zip(inputs, batch, strict=True)
        )
        shapes = tuple({0: export.Dim.DYNAMIC} if free else None for free in batch)
    try:
        with torch.no_grad(), quiet():
            program = export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        _refuse_failing(model, inputs)
        raise ValueError(
            f"torch.export cannot trace this model{' with a free batch' * dynamic_batch}: "
            f"{_reason(model, error)}. {_remedy(error)}"
        ) from error
    program.example_inputs = None  # would be part of the file
    for node in program.graph.nodes:  # as would be where in the source each node comes from
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Keep away the exporters' remarks, deprecations and dumps: one line tells what is wrong."""
    loggers = [logging.getLogger(f"torch.{name}") for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # Recurrent layers keep a list of their weights, which is put back after tracing.
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refuse_failing(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise another ValueError if the model cannot even be called."""
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"the model itself fails on inputs of shape {shapes}: {_reason(model, error)}. Give "
            "inputs that it takes, in its dtype and on its device"
        ) from error


def _reason(model: nn.Module, error: Exception) -> str:
    """The first sentence of an error, and in which of the model's modules it was raised."""
    place = ""
    for call in calls_to(model, error):
        if call.method == "forward":
            module = f"{call.name!r} ({call.kind})" if call.name else call.kind
            place = f"{module}, line {call.line}: "
    reason = re.split(r"[.!] |[.!]?\n|[.!]$", str(error).strip(), maxsplit=1)[0]
    return f"{place}{reason or type(error).__name__}"


def _remedy(error: Exception) -> str:
    """What to do about a model that can be called, but not traced."""
    if "data-dependent" in str(error):
        return (
            "What it computes depends on the numbers in its inputs, and a file has no branches: "
            "choose with torch.where, or leave that part out of the model"
        )
    if "Constraints violated" in str(error):
        return (
            "It takes the batch's size for a fixed number, as len() of a tensor does: write "
            "x.shape[0] there, or take dynamic_batch=False (--fixed-batch) for one size only"
        )
    return "Write that part in operations of torch alone, or leave it out of the model"
