"""Leaf: a module that torch.fx's symbolic tracing takes whole, as it takes torch's own layers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


class Leaf(nn.Module):
    """A module that is one operation of a torch.fx graph, which calls it.

    There it goes on choosing its path by the number of rows. A tracer that is to look inside must
    be ``torch.export``'s or ``torch.compile``'s: a proxy does not know its shape.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call the module, or have a proxy's tracer write the call down."""
        for x in (*inputs, *options.values()):
            if isinstance(x, Proxy):
                tracer: Any = x.tracer
                name = tracer.path_of_module(self)
                return tracer.call_module(
                    self,
                    lambda *a, **k: tracer.create_proxy("call_module", name, a, k),
                    inputs,
                    options,
                )
        return super().__call__(*inputs, **options)
