"""Weights from a file into a network that was written anew, with names of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def load_in_order(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a network the tensors of a state dict by their order, and put it in evaluation mode.

    Raises:
        ValueError: the file has more or fewer tensors, or one of another shape.
    """
    own = model.state_dict()
    if len(own) != len(tensors):
        raise ValueError(f"{len(tensors)} tensors for a network of {len(own)}: another network's")
    for (name, ours), (other, theirs) in zip(own.items(), tensors.items(), strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"{other} is {tuple(theirs.shape)}, {name} {tuple(ours.shape)}")
        with torch.no_grad():
            ours.copy_(theirs)
    return model.eval()
