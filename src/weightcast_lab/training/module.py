"""Classifier: a network under training, as Lightning's Trainer wants it; how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.layers import predicted_layers
from weightcast.optim import parameter_groups
from weightcast.transform.broadcast import broadcast_constants
from weightcast_lab.data.images import Split
from weightcast_lab.settings import TrainingSettings


class Classifier(pl.LightningModule):
    """Cross entropy on labelled examples, several batches to each of Lightning's steps.

    Lightning's hooks cost about half a millisecond a step, as much as a fifth of a small network's
    own; so one of its steps takes a list of batches, with a step of the optimiser for each.

    Args:
        model: images to logits (batch, n_classes), or characters (batch, length) to logits
            (batch, length, n_classes); trained in place.
        settings: optimiser, schedule and the rest.
        n_batches: optimiser steps of an epoch.
    """

    loss_sum: Tensor

    def __init__(self, model: nn.Module, settings: TrainingSettings, n_batches: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.settings = settings
        self.n_batches = n_batches
        # A buffer, so that a checkpoint in the middle of an epoch holds it.
        self.register_buffer("loss_sum", torch.zeros(()))

    def training_step(self, batches: list[Split], batch_idx: int) -> None:
        """One step of the optimiser for each batch."""
        optimiser, losses = self._optimiser, []
        for x, y in batches:
            optimiser.zero_grad()
            logits = self.model(x).flatten(0, -2)  # one row for each answer
            smoothing = self.settings.label_smoothing
            loss = F.cross_entropy(logits, y.flatten(), label_smoothing=smoothing)
            self._backward(loss)
            optimiser.step()
            if self._schedule is not None:
                self._schedule.step()
            losses.append(loss.detach())
        for loss in self._mean_of_processes(losses):
            self.loss_sum += loss

    def setup(self, stage: str) -> None:
        """Make dictionaries the same in all processes, whose rounding may differ."""
        if self.trainer.world_size > 1:
            broadcast_constants(self.model)

    def on_train_start(self) -> None:
        """Take optimiser and schedule out of Lightning's wrappers."""
        self._optimiser: Any = self.optimizers(use_pl_optimizer=False)
        self._schedule: Any = self.lr_schedulers()
        self._backward: Callable[[Tensor], None] = Tensor.backward
        if self.trainer.world_size > 1:
            self._backward = self.manual_backward  # prepares DDP to average these gradients

    def _mean_of_processes(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each process's losses are of its own share of the batches."""
        if self.trainer.world_size == 1:
            return losses
        return self.trainer.strategy.reduce(torch.stack(list(losses)), reduce_op="mean").unbind()

    def take_loss(self) -> float:
        """The mean loss of the epoch that ends now.

        Raises:
            ValueError: it is NaN or infinite.
        """
        loss = float(self.loss_sum) / self.n_batches
        self.loss_sum.zero_()
        if not abs(loss) < float("inf"):
            raise ValueError(
                f"the loss of epoch {self.current_epoch + 1} is {loss}: lower the learning rate "
                f"(learning_rate is {self.settings.learning_rate})"
            )
        return loss

    def configure_optimizers(self) -> Any:
        """The optimiser, with V in a group of its own, and the schedule, stepped by each batch."""
        settings = self.settings
        groups = self._parameter_groups()
        decay = settings.weight_decay
        # Fused: one kernel for all parameters, where the default takes a dozen.
        if settings.optimiser == "adamw":
            optimiser = torch.optim.AdamW(groups, weight_decay=decay, fused=True)
        else:
            optimiser = torch.optim.SGD(
                groups, momentum=settings.momentum, weight_decay=decay, fused=True
            )
        if settings.schedule == "constant":
            return optimiser
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=[group["lr"] for group in groups],
            total_steps=settings.epochs * self.n_batches,
        )
        return [optimiser], [schedule]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        rate, rate_V = self.settings.learning_rate, self.settings.learning_rate_V
        if rate_V is None and self.settings.optimiser == "adamw":
            return parameter_groups(self.model, rate, self.settings.weight_decay)
        V = [layer.V for layer in predicted_layers(self.model).values()]
        known = set(map(id, V))
        rest = [p for p in self.model.parameters() if id(p) not in known and p.requires_grad]
        groups = [{"params": rest, "lr": rate}, {"params": V, "lr": rate_V or rate}]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Score:
    """How well a network answers.

    Args:
        error: wrong answers, in percent.
        loss: mean cross entropy, in nats per answer.
    """

    error: float
    loss: float


@torch.no_grad()
def measure(model: nn.Module, split: Split, batch_size: int = 1000) -> Score:
    """Ask a network for all answers of a split.

    Args:
        model: x (batch, ...) to logits (batch, ..., n_classes); measured in evaluation mode, its
            mode restored afterwards.
        split: examples x and their answers y, on the model's device.
        batch_size: answers at a time, or those of one example.
    """
    training = model.training
    model.eval()
    x, y = split
    at_once = max(1, batch_size * len(y) // y.numel())
    wrong, loss = 0, 0.0
    for inputs, answers in zip(x.split(at_once), y.split(at_once), strict=True):
        logits, answers = model(inputs).flatten(0, -2), answers.flatten()
        wrong += int((logits.argmax(dim=1) != answers).sum())
        loss += float(F.cross_entropy(logits.double(), answers, reduction="sum"))
    model.train(training)
    return Score(100 * wrong / y.numel(), loss / y.numel())


def measure_error(model: nn.Module, split: Split, batch_size: int = 1000) -> float:
    """The share of wrong answers, in percent; arguments as of :func:`measure`."""
    return measure(model, split, batch_size).error
