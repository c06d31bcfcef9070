"""PredictedMultiheadAttention: projections W = U V, in place of ``nn.MultiheadAttention``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.composite import Part, PredictedModule, plain_parameter
from weightcast.layers.parameter import DenseParameter


class PredictedMultiheadAttention(PredictedModule[nn.MultiheadAttention]):
    """``nn.MultiheadAttention`` whose projections are layers.

    ``in_proj`` is the packed projection of queries, keys and values: n_visible = embed_dim,
    n_units = 3 embed_dim. Where keys or values have a width of their own there are ``q_proj``,
    ``k_proj`` and ``v_proj`` instead. ``out_proj`` is a linear layer. Torch's own function runs on
    the weights that these compute, in its fast path too.

    Args:
        module: the ``nn.MultiheadAttention``.
    """

    @classmethod
    @override
    def weights_of(cls, module: nn.MultiheadAttention) -> dict[str, Part]:
        """The projections that the module has."""
        found: dict[str, Part] = {}
        for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
            if getattr(module, f"{name}_weight") is not None:
                weight = plain_parameter(module, f"{name}_weight")
                layer = DenseParameter(weight, variance=2 / sum(weight.shape))  # Xavier's
                found[name] = layer, {f"{name}_weight": "weight"}
        out, size = module.out_proj, module.embed_dim
        linear = nn.utils.skip_init(nn.Linear, size, size, device="meta")
        linear.weight, linear.bias = plain_parameter(out, "weight"), out.bias
        found["out_proj"] = linear, {"out_proj.weight": "weight", "out_proj.bias": "bias"}
        return found

    @override
    def observe(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> None:
        """The projections' inputs: what is given, and the heads' outputs."""
        if query.is_nested:
            return
        layers = self.layers()
        if "in_proj" in layers:
            alike = query is key and key is value
            layers["in_proj"](*(query,) if alike else (query, key, value))
        else:
            for name, x in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
                layers[name](x)
        tensors = self._tensors()
        weight = tensors["out_proj.weight"]
        tensors["out_proj.weight"] = weight.new_zeros(weight.shape).fill_diagonal_(1)
        if (bias := tensors["out_proj.bias"]) is not None:
            tensors["out_proj.bias"] = torch.zeros_like(bias)
        layers["out_proj"](self._call(tensors, query, key, value, *args, **kwargs)[0])
