"""Losses: how far the student's output is from the teacher's, a scalar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weightcast.inputs.batches import tensors_in

Loss = Callable[[Any, Any, Any], Tensor]
"""The student's output, the teacher's, and the batch, to a scalar."""

_ROWS = 512  # whose log-probabilities are held at a time: a vocabulary has many


def find_loss(loss: Loss | Literal["kl", "squared"] | None, model: nn.Module) -> Loss:
    """The loss of a name; for None the one that suits what a model returns.

    That is KL for ``logits`` of more than one class, unless the model's configuration says that
    they are no classes that exclude each other; else the squared error.

    Raises:
        ValueError: a name that is none.
    """
    if callable(loss):
        return loss
    if loss not in (None, "kl", "squared"):
        raise ValueError(f"loss is {loss!r}: take 'kl', 'squared', None or a function")
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    exclusive = problem in (None, "single_label_classification")

    def measure(student: Any, teacher: Any, batch: Any) -> Tensor:
        (y, is_logits), (target, _) = _compared(student), _compared(teacher)
        y, target = matched(y, target)
        axis = 1 if y.dim() > 3 else -1  # of classes: pixels' are (batch, classes, height, width)
        fits = is_logits and exclusive and y.shape[axis] > 1
        if loss == "kl" or (loss is None and fits):
            return kl_divergence(y, target, batch, axis)
        return squared_error(y, target, batch)

    return measure


def learn_from(loss: Tensor) -> float:
    """Add a loss's gradients, if there are any, to those of what is trained; return its value."""
    if loss.requires_grad:
        loss.backward()
    return float(loss.detach())


def first_tensor(output: Any) -> Tensor:
    """The first floating-point tensor of an output."""
    return _compared(output, by_name=False)[0]


def matched(y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors that are compared, on one device; a ValueError if their shapes differ."""
    if y.shape != target.shape:
        raise ValueError(
            f"the outputs have shapes {tuple(y.shape)} and, the teacher's, {tuple(target.shape)}: "
            "pass the dense network of the same architecture, or a function of both as loss"
        )
    return y, target.detach().to(y.device)


def kl_divergence(y: Tensor, target: Tensor, batch: Any, axis: int = -1) -> Tensor:
    """KL(softmax(target) || softmax(y)) in nats, the mean over rows that the mask shows.

    The classes lie on ``axis``. It is computed some rows at a time, in float32 at least.
    """
    y, target = _shown(y.movedim(axis, -1), target.movedim(axis, -1), batch)
    y, target = y.flatten(0, -2), target.flatten(0, -2)
    parts = zip(y.split(_ROWS), target.split(_ROWS), strict=True)
    sums = [checkpoint(_sum_of_kl, *part, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum() / len(y)


def squared_error(y: Tensor, target: Tensor, batch: Any) -> Tensor:
    """The mean of (y - target)^2 over that of (target - its mean)^2, where the mask shows them."""
    y, target = _shown(y, target, batch)
    variance = target.float().var(unbiased=False)
    if bool(variance == 0):
        raise ValueError(
            f"the teacher's output of shape {tuple(target.shape)} is one number everywhere, so "
            "there is nothing to learn from it: pass other inputs"
        )
    return (y.float() - target.float()).square().mean() / variance


def _sum_of_kl(y: Tensor, target: Tensor) -> Tensor:
    dtype = torch.promote_types(y.dtype, torch.float32)
    ours, theirs = (x.log_softmax(dim=-1, dtype=dtype) for x in (y, target))
    return F.kl_div(ours, theirs, reduction="sum", log_target=True)


def _compared(output: Any, *, by_name: bool = True) -> tuple[Tensor, bool]:
    """The tensor of an output that is compared, and whether it is named ``logits``."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if by_name and isinstance(named, Tensor):
        return named, True
    found = next((y for y in tensors_in(output) if y.is_floating_point()), None)
    if found is None:
        raise ValueError(
            f"the model returns a {type(output).__name__} without floating-point tensors: give a "
            "function of it, loss=lambda student, teacher, batch: ..."
        )
    return found, False


def _shown(y: Tensor, target: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
    """The rows that are no padding, by the batch's ``attention_mask``, if it has one that fits."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.dim() >= y.dim() or mask.shape != y.shape[: mask.dim()]:
        return y, target
    rows = mask.to(y.device).bool()
    return (y, target) if bool(rows.all()) else (y[rows], target[rows])
