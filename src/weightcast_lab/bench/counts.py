"""Counts: multiply-adds of a forward pass, layer by layer, and the path that each layer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from weightcast.layers import PredictedLayer
from weightcast.weight import ExecutionPath


@dataclass(frozen=True)
class Counts:
    """Multiply-adds of one forward pass.

    Args:
        total: of all linear and convolutional layers together.
        dense: of the dense network's.
        chosen: by name of each predicted layer, the path that ``auto`` takes.
    """

    total: int
    dense: int
    chosen: Mapping[str, ExecutionPath]

    @property
    def choice(self) -> str:
        """The path that all layers take, or ``mixed``."""
        paths = set(self.chosen.values())
        return paths.pop() if len(paths) == 1 else "mixed"


def count(model: nn.Module, x: Tensor, path: ExecutionPath = "auto") -> Counts:
    """Count a forward pass of a dense or predicted network.

    Args:
        model: run once, without gradients.
        x: its inputs.
        path: what predicted layers are counted along.
    """
    total, dense = 0, 0
    chosen: dict[str, ExecutionPath] = {}

    def take(name: str, layer: nn.Module, _: object, y: Tensor) -> None:
        nonlocal total, dense
        if isinstance(layer, PredictedLayer):
            rows = y.numel() // layer.n_units  # a convolution has one per output position
            whole = rows * layer.n_visible * layer.n_units
            total += layer.multiply_adds(rows, path)
            chosen[name] = layer.choose_path(rows)
        else:
            weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
            whole = y.numel() // weight.shape[0] * weight.numel()
            total += whole
        dense += whole

    handles = [
        module.register_forward_hook(partial(take, name))
        for name, module in model.named_modules()
        if isinstance(module, (PredictedLayer, nn.Linear, nn.Conv2d))
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return Counts(total, dense, chosen)
