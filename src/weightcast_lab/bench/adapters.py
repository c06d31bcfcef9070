"""PEFT's adapters over a frozen dense layer, as many of their weights as their settings allow.

The frozen factor is the dense layer's own weight; the bias is learned, as it is everywhere else.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

MAX_FROZEN = 2**28
"""Numbers in VeRA's frozen projections, at most (1 GiB): its rank is cut to fit."""


def lora(layer: Any, n_weights: int) -> nn.Module:
    """LoRA: W + B A, with both thin factors learned.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv2d``.
        n_weights: of A and B together.
    """
    n_units, n_visible = layer.weight.shape[0], layer.weight[0].numel()
    rank = max(1, round(n_weights / (n_units + n_visible)))
    return _adapt(layer, lambda peft: peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_ONE))


def vera(layer: Any, n_weights: int) -> nn.Module:
    """VeRA: W + diag(b) B diag(d) A, with B and A random and fixed; b and d are learned.

    It learns n_units + rank weights, so that a share of W takes a rank above W's own; the rank
    stops where A and B would hold more than :data:`MAX_FROZEN` numbers.

    Args:
        layer: ``nn.Linear``.
        n_weights: of b and d together.
    """
    n_units, n_visible = layer.weight.shape
    rank = min(max(1, n_weights - n_units), MAX_FROZEN // (n_units + n_visible))
    return _adapt(layer, lambda peft: peft.VeraConfig(r=rank, target_modules=_ONE))


def fourierft(layer: Any, n_weights: int) -> nn.Module:
    """FourierFT: W plus the inverse transform of a sparse spectrum, whose entries are learned.

    Args:
        layer: ``nn.Linear``.
        n_weights: entries of the spectrum.
    """
    return _adapt(
        layer, lambda peft: peft.FourierFTConfig(n_frequency=n_weights, target_modules=_ONE)
    )


_NAME = "layer"
_ONE = [_NAME]


def _adapt(layer: Any, configure: Callable[[Any], Any]) -> nn.Module:
    """The adapted layer alone, without the wrapper that PEFT puts around a whole model."""
    peft = importlib.import_module("peft")
    model = nn.Sequential(OrderedDict([(_NAME, layer)]))
    adapted = peft.get_peft_model(model, configure(peft)).base_model.model.get_submodule(_NAME)
    if layer.bias is not None:
        adapted.base_layer.bias.requires_grad_(True)
    return adapted
