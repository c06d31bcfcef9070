"""AdaptedLayer: a frozen layer W0 and, beside it, what is learned: y = x W0 + b + x U V."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from weightcast.layers.computed_weight import guarded
from weightcast.layers.layer import PredictedLayer
from weightcast.layers.leaf import Leaf
from weightcast.layers.registry import view
from weightcast.layers.view import plus

_FREED = "weightcast_freed"
Argument = TypeVar("Argument")


class AdaptedLayer(Leaf):
    """A layer that someone else trained, frozen, and a predicted one whose output is added to its.

    The frozen layer is that very module: in few bits, quantised or predicted itself. Attributes of
    it are found here too. Where ``delta`` has another dtype its inputs are cast to that, and the
    sum to the frozen layer's; at V = 0 outputs are the frozen layer's to the last bit.

    Args:
        frozen: the layer; none of its parameters takes a gradient.
        delta: a predicted layer of the same type and sizes, without a bias.
        gain: root mean square of what U makes of the layer's inputs, by which
            :func:`weightcast.parameter_groups` divides the learning rate.
    """

    frozen: nn.Module
    delta: PredictedLayer

    def __init__(self, frozen: nn.Module, delta: PredictedLayer, gain: float = 1.0) -> None:
        super().__init__()
        self.frozen, self.delta, self.gain = frozen, delta, gain
        for p in delta.parameters():
            free(p)
        self.training = frozen.training

    def forward(self, *inputs: object, **options: object) -> Tensor:
        """The frozen layer's output plus delta's; arguments are the frozen layer's."""
        y = self.frozen(*inputs, **options)
        inputs = tuple(self._cast(x) for x in inputs)
        options = {key: self._cast(x) for key, x in options.items()}
        if self.frozen._forward_hooks:  # which may keep y
            return plus(y, self.delta(*inputs, **options))
        return self.delta.added_to(y, *inputs, **options)

    @property
    def weight(self) -> Tensor:
        """W0 + U V in the frozen layer's layout and dtype, computed anew at each access."""
        return guarded(self.multiply_out())

    def multiply_out(self) -> Tensor:
        """As :attr:`weight`, for a module that reads its weight itself."""
        return plus(view(self.frozen).readable, self.delta.multiply_out())

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """A dense layer of W0 + U V, summed in double precision, and of the frozen layer's bias.

        Its dtype is the frozen layer's; of a quantised one that in which it computes.
        """
        seen, exact = view(self.frozen), copy.deepcopy(self.delta).double()
        W0 = seen.readable
        dense = seen.new_dense(W0.device, W0.dtype)
        dense.get_parameter("weight").copy_(W0.double() + exact.multiply_out())
        if seen.bias is not None:
            dense.get_parameter("bias").copy_(seen.bias)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """The gain, for printed models."""
        return f"gain={self.gain:.3g}"

    def _cast(self, x: Argument) -> Argument | Tensor:
        """An input in V's dtype; autocast casts itself."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.delta.V.dtype)

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            frozen = self.__dict__.get("_modules", {}).get("frozen")
            if frozen is None or name.startswith("__"):
                raise
            return getattr(frozen, name)


def free(p: nn.Parameter) -> None:
    """Let a parameter of an adapted model learn, in memory of its own, and be saved."""
    p.data = p.data.clone()
    p.requires_grad_(True)
    vars(p)[_FREED] = True


def is_freed(p: nn.Parameter) -> bool:
    """Whether a parameter of an adapted model learns, or did before it was frozen again."""
    return p.requires_grad or _FREED in vars(p)


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The adapted layers of a model, by their first name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, AdaptedLayer)}
