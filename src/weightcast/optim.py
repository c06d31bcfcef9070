"""parameter_groups: learning rates under which V moves W as far as a dense layer's would move.

Beside it Adam's state as named tensors, for those who keep it on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.layers import adapted_layers, predicted_layers


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups for Adam-like optimisers, with a learning rate of its own for each V.

    Adam moves every entry of V by about the learning rate, and so an entry of W = U V by about
    the learning rate times the norm of U's row. Dividing by the root mean square of these norms
    makes W move as a dense layer's weights would, whatever the dictionary's scale; the dense
    learning rate then carries over. The decay of W per step is kept too: it is the product of
    learning rate and weight decay. Equivalently, U is scaled to rows of unit norm on average.

    Of an adapted layer it is the output that moves alike: the rate is divided by x U's root mean
    square, 1 for whitened directions, or of what is relative by that of U's entries, and, as atoms
    move together, by a quarter of their number. Begin with 0.005, which heads, biases and norms
    take as it is; where all rules are relative 0.01 may be better.

    A scheduler must keep the groups' ratios. ``OneCycleLR`` sets one rate for all, unless given
    ``max_lr=[group["lr"] for group in groups]``; those that multiply, as ``LambdaLR``, are safe.

    Args:
        model: with or without predicted layers.
        learning_rate: what one would use for the dense model.
        weight_decay: the same; decoupled, as in AdamW.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``: one for all parameters but
        V, one for each scale of the dictionaries. Since each group costs an optimiser time, scales
        within a hundredth share the first one's.
    """
    gains = {id(a.delta): a.gain * len(a.delta.V) / 4 for a in adapted_layers(model).values()}
    by_scale: dict[float, dict[str, Any]] = {}
    scaled: set[int] = set()
    for name, layer in predicted_layers(model).items():
        if not layer.V.requires_grad or id(layer.V) in scaled:  # a tied V comes once
            continue
        scaled.add(id(layer.V))
        scale = gains.get(id(layer)) or float(row_norm(layer))
        scale = next((near for near in by_scale if abs(near - scale) <= 0.01 * near), scale)
        own = {"lr": learning_rate / scale, "weight_decay": weight_decay * scale}
        group = by_scale.setdefault(scale, {"params": [], **own, "name": []})
        group["params"].append(layer.V)
        group["name"].append(f"{name}.V".lstrip("."))
    groups = [group | {"name": ", ".join(group["name"])} for group in by_scale.values()]
    others = [p for p in model.parameters() if id(p) not in scaled and p.requires_grad]
    rest = {"lr": learning_rate, "weight_decay": weight_decay, "name": "dense"}
    return ([{"params": others, **rest}] if others else []) + groups


def row_norm(layer: Any) -> torch.Tensor:
    """Root mean square norm of the rows of U over all inputs and columns of a predicted layer."""
    return (layer.atoms.energy().mean() / layer.n_visible).sqrt()


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state by name, ``adam.PARAMETER.KEY``."""
    return {
        f"adam.{number}.{key}": value
        for number, moments in optimiser.state_dict()["state"].items()
        for key, value in moments.items()
    }


def load_adam_state(
    optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor], rates: Sequence[float]
) -> None:
    """Take back what :func:`adam_state` gave, other names left aside, and the groups' rates."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("adam."):
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
