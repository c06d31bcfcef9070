"""Which elementwise function follows a layer: found in ``nn.Sequential``, or told."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from weightcast.serialization import nearest
from weightcast.transform.pretrain.autoencoder import Activation

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid,
    nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Modules that are functions of one value, with no parameters and no randomness."""


def find_activations(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    given: Activation | Mapping[str, Activation] | None,
) -> dict[str, Activation]:
    """The activation of every layer: the given one, else the one that follows in a Sequential.

    Args:
        model: that the layers are part of.
        layers: by name.
        given: one for all layers, or some by layer name; None finds all.

    Raises:
        ValueError: a name that is none of the layers, a value that cannot be called, no elementwise
            module after the layer, or different ones after its several places.
    """
    told = given if isinstance(given, Mapping) else dict.fromkeys(layers, given)
    for name, activation in told.items():
        if name not in layers:
            raise ValueError(f"activation: no layer {name!r} is trained{nearest(name, layers)}")
        if activation is not None and (not callable(activation) or isinstance(activation, type)):
            raise ValueError(
                f"activation of layer {name!r} is {activation!r}: take a function of a tensor, "
                "such as torch.relu or nn.ReLU()"
            )
    found = {}
    for name, layer in layers.items():
        activation = told.get(name)
        found[name] = _following(model, layer, name) if activation is None else activation
    return found


def _following(model: nn.Module, layer: nn.Module, name: str) -> Activation:
    found: list[nn.Module | None] = []
    for parent in model.modules():
        children = list(parent._modules.values())  # a shared layer as often as it stands there
        for child, after in zip(children, [*children[1:], None], strict=False):
            if child is layer:
                found.append(after if isinstance(parent, nn.Sequential) else None)
    first = found[0] if found else None
    if type(first) not in ELEMENTWISE or any(repr(other) != repr(first) for other in found):
        after = " and ".join("nothing" if m is None else type(m).__name__ for m in found)
        raise ValueError(
            f"layer {name!r} is not followed by one elementwise activation in an nn.Sequential"
            f"{f' (after it: {after})' if any(found) else ''}: name it, "
            f"activation={{{name!r}: torch.relu}}"
        )
    assert first is not None
    return first
