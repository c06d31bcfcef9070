"""PredictedExperts: W = U V for all experts at once, in a mixture's fused weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from typing_extensions import override

from weightcast.layers.composite import Part, PredictedModule
from weightcast.layers.parameter import DenseParameter

_UP = ("gate_up_proj", "gate_proj", "up_proj")


class PredictedExperts(PredictedModule[nn.Module]):
    """Experts of any class whose fused weights are layers, named as the class names them.

    A unit is one unit of one expert: ``gate_up_proj`` (n_experts, 2 intermediate, hidden) has
    n_visible = hidden and n_units = n_experts * 2 intermediate, ``down_proj`` n_visible =
    intermediate and n_units = n_experts * hidden. All experts share the dictionary; with
    ``columns`` a multiple of n_experts each has atoms of its own. The module's own forward runs on
    the weights, which are computed once for each call, for unused experts too.

    Args:
        module: with parameters ``gate_up_proj`` or ``up_proj``, and ``down_proj``, of three axes,
            as transformers' mixtures have; or one such ``weight`` of ``num_experts`` matrices.
    """

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether a module holds fused experts."""
        return bool(_fused(module))

    @classmethod
    @override
    def weights_of(cls, module: nn.Module) -> dict[str, Part]:
        """The fused weights."""
        transposed = _transposed(module)
        variance = 0.02**2  # what transformers' configurations start with
        inside = "what experts compute inside is not seen from outside their module"
        found: dict[str, Part] = {}
        for name, weight in _fused(module).items():
            hidden = inside if name == "down_proj" else None
            found[name] = DenseParameter(weight, transposed, variance, hidden), {name: "weight"}
        return found

    @override
    def observe(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> None:
        """All tokens, for the first projections, whichever experts they are sent to."""
        for name, layer in self.layers().items():
            if name != "down_proj":
                layer(hidden_states)


def _fused(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of three axes, if the module is one of experts."""
    own = {
        name: p
        for name, p in module._parameters.items()
        if p is not None and not is_lazy(p)
        if p.dim() == 3 and not name.endswith("bias")
    }
    if "down_proj" in own and any(name in own for name in _UP):
        return {name: own[name] for name in own if name in (*_UP, "down_proj")}
    sizes = [getattr(module, name, None) for name in ("num_experts", "output_size", "input_size")]
    if "weight" in own and list(own["weight"].shape) == sizes:
        return {"weight": own["weight"]}
    return {}


def _transposed(module: nn.Module) -> bool:
    """Whether each matrix is (n_visible, n_units).

    As the module says, else by the width that the first inputs and the last outputs share.
    """
    stated = getattr(module, "is_transposed", None)
    if isinstance(stated, bool):
        return stated
    fused = _fused(module)
    if "down_proj" not in fused:
        return False
    up = next(fused[name] for name in _UP if name in fused)
    return up.shape[2] != fused["down_proj"].shape[1]
