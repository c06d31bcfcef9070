"""verify: whether every V of a model gets a gradient and changes the model's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import (
    as_batches,
    call,
    given_tensors,
    model_input,
    tensors_in,
)
from weightcast.inputs.undisturbed import let_recurrent_learn, randomness_kept
from weightcast.layers import predicted_layers
from weightcast.layers.models import check_values, copied

_STEPS = (1.0, 1e3, 1e6)
"""How far a V is moved, in units of its size, until an output changes.

In evaluation mode a dense layer's own gradient may be a billionth of the outputs, as that of a gate
on small means: then a step of that size is rounded away. A V that is not read moves nothing.
"""


@dataclass(frozen=True)
class Verified:
    """What was measured of one layer's V.

    Args:
        layer: its name.
        gradient: norm of the gradient of a random sum of the outputs by V.
        change: the largest change of an output when V is changed by about its own size, beside the
            largest output; of outputs that are finite before and after, as masked ones are not.
            Where that is less than the outputs' precision, for a change a thousand or a million
            times as large.
    """

    layer: str
    gradient: float
    change: float

    @property
    def learns(self) -> bool:
        """Whether V has a gradient, and its change one in the outputs, both finite."""
        return 0 < self.gradient < float("inf") and 0 < self.change < float("inf")


def verify(model: nn.Module, inputs: Any) -> tuple[Verified, ...]:
    """Prove that every V gets a gradient and changes the outputs.

    A module may read the weight of a layer inside it, keep a copy, or not call the layer at all;
    then V would never learn, and nothing else would say so. The model runs in evaluation mode, with
    gradients and without, since torch takes other ways without.

    Args:
        model: with predicted layers. Everything is done to a copy: the model, its gradients and
            modes, and the global random state stay as they are.
        inputs: example batches as for :func:`convert`, at most 1,000 where they have no length; the
            model may return tensors in tuples, mappings or dataclasses.

    Returns:
        One row per predicted layer.

    Raises:
        ValueError: layers whose V does not learn, by name; no predicted layer; inputs that hold
            NaN; a model that fails on the inputs, or returns no finite floating-point number.
    """
    layers = predicted_layers(model)
    if not layers:
        raise ValueError("the model has no predicted layer: convert it first")
    check_values(model)
    batches = as_batches(inputs)
    _refuse_nan(batches)
    with randomness_kept(model):
        trial = copied(model).eval()
        gradients = _gradients(trial, batches)
        with torch.no_grad():
            expected = _run(trial, batches)
            if not any(bool(y.isfinite().any()) for y in expected):
                raise ValueError(
                    "none of the numbers that the model returns is finite: pass smaller inputs, or "
                    "look for weights that are not finite"
                )
            rows = tuple(
                Verified(name, gradients[name], _change(trial, name, batches, expected))
                for name in layers
            )
    idle = [row for row in rows if not row.learns]
    if idle:
        listed = ", ".join(
            f"{row.layer!r} (gradient {row.gradient:.2g}, change {row.change:.2g})" for row in idle
        )
        raise ValueError(
            f"{len(idle)} of {len(rows)} predicted layers do not learn from these inputs: "
            f"{listed}. Leave those dense that the model does not call, or whose weight its parent "
            "reads once; a layer before weights that are all zero learns only once these change"
        )
    return rows


def _gradients(model: nn.Module, batches: list[Any]) -> dict[str, float]:
    """The norm of every V's gradient."""
    layers = predicted_layers(model)
    for layer in layers.values():
        layer.V.requires_grad_(True)  # a frozen one as well
    let_recurrent_learn(model)
    with torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        total = sum(
            (y * torch.randn(y.shape, generator=generator).to(y)).sum()
            for y in _run(model, batches)
        )
        if not isinstance(total, Tensor) or not total.requires_grad:
            return dict.fromkeys(layers, 0.0)
        values = [layer.V for layer in layers.values()]
        found = torch.autograd.grad(total, values, allow_unused=True)
    model.eval()
    norms = [0.0 if g is None else float(g.detach().double().norm()) for g in found]
    return dict(zip(layers, norms, strict=True))


def _change(model: nn.Module, name: str, batches: list[Any], expected: list[Tensor]) -> float:
    """The largest change of an output that a change of one V makes, beside the largest output."""
    V = predicted_layers(model)[name].V
    kept = V.detach().clone()
    size = max(float(kept.double().square().mean().sqrt()), 1e-3)
    noise = torch.randn(V.shape, generator=torch.Generator().manual_seed(1)).to(V)
    change = 0.0
    for step in _STEPS:
        V.copy_(kept + step * size * noise)
        change = _difference(_run(model, batches), expected)
        if change > 0:
            break
    V.copy_(kept)
    return change


def _difference(changed: list[Tensor], expected: list[Tensor]) -> float:
    """The largest change of an output beside the largest one; infinite where none is finite."""
    largest = difference = 0.0
    known = False
    for one, two in zip(changed, expected, strict=True):
        finite = one.isfinite() & two.isfinite()
        if bool(finite.any()):
            one, two, known = one[finite].double(), two[finite].double(), True
            largest = max(largest, float(two.abs().max()))
            difference = max(difference, float((one - two).abs().max()))
    return difference / max(largest, torch.finfo(torch.float64).tiny) if known else float("inf")


def _refuse_nan(batches: list[Any]) -> None:
    """Raise ValueError for inputs that hold NaN; infinite ones may be masks."""
    for batch in batches:
        for x in given_tensors(model_input(batch)):
            if x.is_floating_point() and bool(x.isnan().any()):
                raise ValueError(
                    f"{int(x.isnan().sum())} of {x.numel()} input values are NaN: clean the inputs"
                )


def _run(model: nn.Module, batches: list[Any]) -> list[Tensor]:
    """All floating-point tensors that the model returns, batch after batch; ValueError if none."""
    outputs = (y for batch in batches for y in tensors_in(call(model, batch)))
    found = [y for y in outputs if y.is_floating_point() and y.numel()]
    if not found:
        raise ValueError("the model returns no floating-point tensor that V could change")
    return found
