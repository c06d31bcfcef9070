"""TiedAutoencoder: one layer, dense or predicted, as an autoencoder of its inputs.

    h = g(x W + b),   x' = h W^T + c

Of a predicted layer only V, the bias and the throw-away c are learned (LowRank: its U too).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import check_finite
from weightcast.inputs.undisturbed import gradients_kept
from weightcast.layers import view
from weightcast.optim import adam_state, load_adam_state, parameter_groups

Loss = Literal["squared", "cross-entropy"]
"""``squared``: a linear decoder. ``cross-entropy``: a sigmoid decoder, for inputs in [0, 1]."""

Activation = Callable[[Tensor], Tensor]
"""g: elementwise, (n_rows, n_units) to the same shape."""


class TiedAutoencoder:
    """A layer with a decoder that shares its weights, a sample of its inputs, and Adam.

    Args:
        layer: dense or predicted, linear or a convolution; trained in place.
        activation: g.
        rows: (n_rows, groups * n_visible) inputs of the layer, in its dtype and on its device.
        loss: of the reconstruction, summed over a row's entries and averaged over rows.
        learning_rate: that of a dense layer; V's follows from it by ``parameter_groups``.

    Raises:
        ValueError: rows that are too few, do not vary, are not finite or not what the loss takes.

    References: Denil et al. 2013, section 4; Bengio et al. 2007, section 3.
    """

    def __init__(
        self,
        layer: nn.Module,
        activation: Activation,
        rows: Tensor,
        loss: Loss,
        learning_rate: float,
    ) -> None:
        _check_rows(rows, loss)
        self.layer: Any = layer
        self.activation, self.rows, self.loss = activation, rows, loss
        self.groups = rows.shape[1] // view(layer).sizes[0]
        mean = rows.mean(dim=0)
        # The first codes' share is not subtracted: it changes with V far faster than c can follow.
        self.c = nn.Parameter(mean if loss == "squared" else mean.clamp(0.01, 0.99).logit())
        decoder = {"params": [self.c], "lr": learning_rate, "weight_decay": 0.0, "name": "c"}
        groups = [*parameter_groups(layer, learning_rate), decoder]
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self.optimiser = torch.optim.Adam(groups)

    def decode(self, x: Tensor) -> Tensor:
        """h W^T + c of h = g(x W + b), before cross-entropy's sigmoid, in the shape of x."""
        W = self.layer.weight.flatten(1).unflatten(0, (self.groups, -1))  # W^T, group by group
        h = self._encode(x, W).unflatten(1, (self.groups, -1)).transpose(0, 1)
        return (h @ W).transpose(0, 1).flatten(1) + self.c

    def measure_loss(self, x: Tensor) -> Tensor:
        """The mean over rows of the loss, a scalar."""
        y = self.decode(x)
        if self.loss == "squared":
            return (y - x).square().sum(dim=1).mean()
        return nn.functional.binary_cross_entropy_with_logits(y, x, reduction="sum") / len(x)

    def train_epoch(
        self, generator: torch.Generator, batch_size: int, after_step: Callable[[float], None]
    ) -> float:
        """One pass over the rows in random order; the mean of their losses, each at its step.

        ``after_step`` is called with the share of the epoch that the step was. ValueError if the
        loss is NaN or infinite.
        """
        order = torch.randperm(len(self.rows), generator=generator).to(self.rows.device)
        total = torch.zeros((), dtype=torch.float64, device=self.rows.device)
        with torch.enable_grad(), gradients_kept(self.parameters):
            for chosen in order.split(batch_size):
                loss = self.measure_loss(self.rows[chosen])
                self.optimiser.zero_grad()
                loss.backward(inputs=self.parameters)
                self.optimiser.step()
                total += loss.detach() * len(chosen)
                after_step(len(chosen) / len(order))
        mean = float(total) / len(order)
        if not abs(mean) < float("inf"):
            raise ValueError(
                f"the loss became {mean}: take a smaller learning_rate, or scale the inputs down"
            )
        return mean

    @torch.no_grad()
    def reconstructed(self) -> float:
        """1 - |x - x'|^2 / |x - mean(x)|^2: the share of the rows' variance that x' explains."""
        left = torch.zeros((), dtype=torch.float64, device=self.rows.device)
        for x in self.rows.split(1000):
            y = self.decode(x)
            left += (x - (y if self.loss == "squared" else y.sigmoid())).double().square().sum()
        return 1 - float(left) / _scatter(self.rows)

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and c, by name."""
        return {"c": self.c.detach()} | adam_state(self.optimiser)

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor], rates: list[float]) -> None:
        """Take back what :meth:`state` and :attr:`rates` gave."""
        self.c.copy_(state["c"])
        load_adam_state(self.optimiser, state, rates)

    @property
    def rates(self) -> list[float]:
        """Adam's learning rates: a learned U would change them if they were found again."""
        return [group["lr"] for group in self.optimiser.param_groups]

    def _encode(self, x: Tensor, W: Tensor) -> Tensor:
        """g(x W + b), (n_rows, n_units)."""
        x = x.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (groups, n_rows, n_visible)
        a = (x @ W.transpose(1, 2)).transpose(0, 1).flatten(1)  # (n_rows, n_units)
        if self.layer.bias is not None:
            a = a + self.layer.bias
        h = self.activation(a)
        if not isinstance(h, Tensor) or h.shape != a.shape:
            given = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise ValueError(
                f"the activation turns {tuple(a.shape)} into {given}: it must be elementwise"
            )
        return h


def _check_rows(rows: Tensor, loss: Loss) -> None:
    """Refuse rows that no autoencoder can learn from."""
    if len(rows) < 2:
        raise ValueError(f"it saw {len(rows)} input row(s), pre-training needs at least 2")
    check_finite(rows)
    low, high = float(rows.min()), float(rows.max())
    if loss == "cross-entropy" and not (low >= 0 and high <= 1):
        raise ValueError(
            f"loss 'cross-entropy' needs inputs in [0, 1], and these run from {low:.4g} to "
            f"{high:.4g}: take loss='squared', or scale the inputs"
        )
    if _scatter(rows) == 0:
        raise ValueError(
            f"its {len(rows)} input rows are all the same, so there is nothing to learn: pass "
            "other inputs, or leave the layer out by layers="
        )


def _scatter(rows: Tensor) -> float:
    """|x - mean(x)|^2, summed over rows in float64 and in parts."""
    mean = rows.mean(dim=0, dtype=torch.float64)
    return sum(float((x.double() - mean).square().sum()) for x in rows.split(1000))
