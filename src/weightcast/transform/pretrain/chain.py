"""The chain that is pre-trained: which layers, in which order, and the activation of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from weightcast.inputs.survey import survey
from weightcast.layers import predicted_layers
from weightcast.plan.eligibility import convertible_layers
from weightcast.serialization import nearest
from weightcast.transform.pretrain.autoencoder import Activation

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid,
    nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Modules that are functions of one value, with no parameters and no randomness."""


def layers_in_order(
    model: nn.Module, names: Sequence[str] | None, batches: Iterable[Any]
) -> dict[str, nn.Module]:
    """The layers to train, by their first names, in the order in which the model calls them.

    Raises:
        ValueError: no layer, one that cannot be trained, or one that the model does not call.
    """
    predicted = predicted_layers(model)
    if names is None and not predicted:
        raise ValueError(
            "the model has no predicted layer: convert it first, or name dense layers, layers=[...]"
        )
    names = [names] if isinstance(names, str) else list(predicted if names is None else names)
    if not names:
        raise ValueError("layers is empty: name a layer, or take None for all predicted ones")
    modules = dict(model.named_modules(remove_duplicate=False))
    trainable = predicted | convertible_layers(model)
    first = {id(layer): name for name, layer in trainable.items()}
    for name in names:
        if id(modules.get(name)) not in first:
            raise ValueError(
                f"layers: {name!r} is no predicted layer, nor a dense one that could be"
                f"{nearest(name, trainable)}"
            )
    own = dict.fromkeys(first[id(modules[name])] for name in names)
    order = survey(model, own, [next(iter(batches))]).order
    idle = [name for name in own if name not in order]
    if idle:
        raise ValueError(
            f"the model does not call {', '.join(map(repr, idle))} on these inputs, so there is "
            "nothing to train on: leave such layers out by layers="
        )
    return {name: modules[name] for name in order}


def find_activations(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    given: Activation | Mapping[str, Activation] | None,
) -> dict[str, Activation]:
    """The activation of every layer: the given one, else the one that follows in a Sequential.

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
    known = {name: activation for name, activation in told.items() if activation is not None}
    return {n: known[n] if n in known else _following(model, m, n) for n, m in layers.items()}


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
