"""Whole models: copy one, and check that its weights have values."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
"""A user's model, whose class stays what it was: its layers are replaced, not itself."""


def copied(model: Model, sharing: Iterable[torch.Tensor] = ()) -> Model:
    """A deep copy of a model that shares the tensors ``sharing`` with it.

    ``ValueError`` as of :func:`copying`.
    """
    with copying(model):
        return copy.deepcopy(model, {id(tensor): tensor for tensor in sharing})


@contextmanager
def copying(model: nn.Module) -> Iterator[None]:
    """Turn the error of a copy into a ``ValueError`` that names the tensor which torch copies not.

    It is one that was computed from others: by pruning or weight norm of the old style, say.
    """
    try:
        yield
    except RuntimeError as error:
        for name, module in model.named_modules():
            for key, value in (*vars(module).items(), *module._buffers.items()):
                if isinstance(value, torch.Tensor) and not value.is_leaf:
                    raise ValueError(
                        f"the model cannot be copied, because {key!r} of module {name!r} "
                        f"({type(module).__name__}) is computed from its parameters: remove that "
                        "first (torch.nn.utils.prune.remove, remove_weight_norm or "
                        "remove_spectral_norm), or run the model under torch.no_grad() once"
                    ) from error
        raise


def check_values(model: nn.Module) -> None:
    """Refuse a model that has parameters or buffers on the meta device, by a ``ValueError``."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"{name!r} is on the meta device and holds no values: load the weights first, "
                "model.to_empty(device=...) and load_state_dict"
            )
