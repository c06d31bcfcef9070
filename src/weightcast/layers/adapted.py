"""AdaptedLayer: a frozen layer W0 and, beside it, what is learned: y = x W0 + b + x U V.

Of a relative rule it is y = x (W0 (1 + U V)) + b instead, entry by entry. HiRA (Huang et al., ICLR
2025) learns both factors of such a share; here U is fixed.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from weightcast.layers.computed_weight import guarded, has_memory
from weightcast.layers.layer import PredictedLayer
from weightcast.layers.leaf import Leaf
from weightcast.layers.registry import view
from weightcast.layers.view import Refusal, is_torchaos, plus

_FREED = "weightcast_freed"
Argument = TypeVar("Argument")


class AdaptedLayer(Leaf):
    """A layer that someone else trained, frozen, and a predicted one whose output is added to its.

    The frozen layer is that very module: in few bits, quantised or predicted itself. Attributes of
    it are found here too. Where ``delta`` has another dtype its inputs are cast to that, and the
    sum to the frozen layer's; at V = 0 outputs are the frozen layer's to the last bit.

    If delta's rule is relative the weight is made anew at each call, and again in the backward
    pass: n_visible * n_units * n_atoms multiply-adds, and as many as of a dense layer for V's
    gradient.

    Args:
        frozen: the layer; none of its parameters takes a gradient.
        delta: a predicted layer of the same type and sizes, without a bias.
        gain: root mean square of what U makes of the layer's inputs, by which
            :func:`weightcast.parameter_groups` divides the learning rate; of U's entries, if the
            rule is relative.

    Raises:
        ValueError: a relative rule for a layer that is predicted or quantised.
    """

    frozen: nn.Module
    delta: PredictedLayer

    def __init__(self, frozen: nn.Module, delta: PredictedLayer, gain: float = 1.0) -> None:
        super().__init__()
        if delta.rule.relative and (refusal := relative_refusal(frozen)):
            raise ValueError(refusal.about("the layer"))
        self.frozen, self.delta, self.gain = frozen, delta, gain
        for p in delta.parameters():
            free(p)
        self.training = frozen.training

    def forward(self, *inputs: object, **options: object) -> Tensor:
        """The frozen layer's output plus delta's; arguments are the frozen layer's."""
        if self.delta.rule.relative:
            return self._call_relative(*inputs, **options)
        y = self.frozen(*inputs, **options)
        inputs = tuple(self._cast(x) for x in inputs)
        options = {key: self._cast(x) for key, x in options.items()}
        if self.frozen._forward_hooks:  # which may keep y
            return plus(y, self.delta(*inputs, **options))
        return self.delta.added_to(y, *inputs, **options)

    @property
    def weight(self) -> Tensor:
        """What W0 has become, in its layout and dtype, computed anew at each access."""
        return guarded(self.multiply_out())

    def multiply_out(self) -> Tensor:
        """As :attr:`weight`, for a module that reads its weight itself."""
        return self._changed(view(self.frozen).readable, self.delta)

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """A dense layer of that weight, made in double precision, and of the frozen layer's bias.

        Its dtype is the frozen layer's; of a quantised one that in which it computes.
        """
        seen, exact = view(self.frozen), copy.deepcopy(self.delta).double()
        W0 = seen.readable
        dense = seen.new_dense(W0.device, W0.dtype)
        dense.get_parameter("weight").copy_(self._changed(W0.double(), exact))
        if seen.bias is not None:
            dense.get_parameter("bias").copy_(seen.bias)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """The gain, for printed models."""
        return f"gain={self.gain:.3g}"

    @staticmethod
    def _changed(W0: Tensor, delta: PredictedLayer) -> Tensor:
        D = delta.multiply_out()
        return (W0 * (1 + D)).to(W0.dtype) if delta.rule.relative else plus(W0, D)

    def _call_relative(self, *inputs: object, **options: object) -> Tensor:
        """The frozen layer's output with the weight that V makes, which autograd does not keep.

        Whoever has hooks of his own for what it keeps, as checkpoints have, sees to it himself.
        """
        W0 = self.frozen.get_parameter("weight")  # torch.export's stand-in for it has no view
        W = self._changed(W0, self.delta)
        others = torch._C._autograd._top_saved_tensors_default_hooks  # pyright: ignore
        if not has_memory(W) or not W.requires_grad or others(False) is not None:
            return self._call_with(W, *inputs, **options)
        learned = list(self.delta.parameters())
        versions, place = [p._version for p in learned], W.data_ptr()  # not W: pack is kept too

        def pack(kept: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
            return (kept.shape, kept.stride()) if kept.data_ptr() == place else kept

        def unpack(kept: Tensor | tuple[torch.Size, tuple[int, ...]]) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            if [p._version for p in learned] != versions:
                raise RuntimeError("V was changed between the forward and the backward pass")
            with torch.no_grad():
                return self._changed(W0, self.delta).as_strided(*kept)

        with saved_tensors_hooks(pack, unpack):
            return self._call_with(W, *inputs, **options)

    def _call_with(self, W: Tensor, /, *inputs: object, **options: object) -> Tensor:
        if torch.compiler.is_compiling():  # which does not follow a copy
            return functional_call(self.frozen, {"weight": W}, inputs, options)
        lent = copy.copy(self.frozen)  # in another thread the layer may have another weight
        lent._parameters = self.frozen._parameters | {"weight": W}  # pyright: ignore
        return lent(*inputs, **options)

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


def relative_refusal(layer: nn.Module) -> Refusal | None:
    """Why there is no W0 of which U V could be a share; None if there is one."""
    if not isinstance(layer, PredictedLayer) and not is_torchaos(layer.weight):
        return None
    return Refusal(
        "is predicted or quantised, and a relative rule needs the entries of W0",
        "take relative=False",
        predicate=True,
    )


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
