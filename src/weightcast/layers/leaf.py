"""Leaf: a module that torch.fx's symbolic tracing takes whole, as it takes torch's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Proxy, Tracer


class Leaf(nn.Module):
    """A module that is one operation of a torch.fx graph, which calls it.

    There it goes on choosing its path by the number of rows: a proxy, which has no shape, could not
    be asked for them.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call the module, or have a proxy's tracer write the call down."""
        for x in (*inputs, *options.values()):
            if isinstance(x, Proxy):
                return _written_down(x, self, inputs, options)
        return super().__call__(*inputs, **options)


def _leave_to_forward() -> None:
    """Have torch.compile begin a layer that is compiled itself at its forward, as it does others.

    The graphs of all layers would be counted as one function's, and eight are allowed. This is what
    torch._dynamo's skip_code does, which takes a second to import.
    """
    dynamo: Any = torch._C._dynamo.eval_frame  # pyright: ignore[reportAttributeAccessIssue]
    strategy = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.DEFAULT)
    dynamo.set_code_exec_strategy(Leaf.__call__.__code__, strategy)


_leave_to_forward()


def _written_down(
    x: Proxy, module: nn.Module, inputs: tuple[object, ...], options: dict[str, object]
) -> object:
    """The proxy of a call, which the tracer takes for the outcome of the module's forward."""
    tracer = x.tracer
    assert isinstance(tracer, Tracer)

    def call(*args: object, **kwargs: object) -> Proxy:
        return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)

    return tracer.call_module(module, call, inputs, options)
