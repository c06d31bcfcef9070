"""describe: what decides the result of a pre-training, so that only the same one goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from weightcast.layers import PredictedLayer
from weightcast.serialization import encode
from weightcast.transform.pretrain.autoencoder import Activation
from weightcast.transform.state_folder import digest


def describe(
    model: nn.Module,
    settings: Mapping[str, Any],
    inputs: Iterable[tuple[str, Any]],
    layers: Mapping[str, nn.Module],
    activations: Mapping[str, Activation],
) -> dict[str, Any]:
    """JSON data: settings as they are, tensors of inputs, layers and the model by digests."""
    states = [layer.state_dict(keep_vars=True) for layer in layers.values()]
    trained = {id(value) for state in states for value in state.values()}
    others = model.state_dict(keep_vars=True).items()
    return {
        **settings,
        "inputs": digest(inputs),
        "layers": {n: _describe_layer(layer, activations[n]) for n, layer in layers.items()},
        "rest of the model": digest(item for item in others if id(item[1]) not in trained),
        "initial": {n: digest(_initial(layer)) for n, layer in layers.items()},
    }


def remade(layer: nn.Module) -> bool:
    """Whether a layer's atoms are made from data."""
    return isinstance(layer, PredictedLayer) and bool(layer.rule.dictionary.needs)


def changed(layer: nn.Module) -> dict[str, Tensor]:
    """What pre-training changes of a layer."""
    if remade(layer):
        return dict(layer.state_dict())
    return {name: parameter.detach() for name, parameter in layer.named_parameters()}


def _initial(layer: nn.Module) -> list[tuple[str, Any]]:
    """What a layer's pre-training starts from; V is drawn anew where atoms are remade."""
    return [(n, p) for n, p in layer.named_parameters() if not (n == "V" and remade(layer))]


def _describe_layer(layer: Any, activation: Activation) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "class": f"{type(layer).__name__}({layer.extra_repr()})",
        "activation": _describe_activation(activation),
    }
    if isinstance(layer, PredictedLayer):
        facts["dtype"] = str(layer.V.dtype)
        try:
            facts["rule"] = encode(layer.rule)
        except ValueError:  # holds an estimator; its atoms tell
            facts["rule"] = type(layer.rule.dictionary).__name__
        if not remade(layer):
            learned = changed(layer)
            facts["atoms"] = digest(i for i in layer.state_dict().items() if i[0] not in learned)
    return facts


def _describe_activation(activation: Activation) -> str:
    """A module's repr, a function's qualified name."""
    if isinstance(activation, nn.Module):
        return repr(activation)
    kind = type(activation)
    module = getattr(activation, "__module__", None) or kind.__module__
    return f"{module}.{getattr(activation, '__qualname__', kind.__qualname__)}"
