"""What is done to a contender: a training step, a forward pass, and what their states weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.optim import parameter_groups
from weightcast_lab.bench.cases import Case
from weightcast_lab.bench.timing import MIN_SECONDS

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


@dataclass(frozen=True)
class Protocol:
    """How everything is measured.

    Args:
        rounds: alternations that count, at least 1; claims take 7 or more.
        threads: of torch on the CPU.
        device: ``cpu`` or ``cuda``.
        fused: AdamW's fused kernel in place of the default one.
        memory: whether peak memory is measured too, each in a process of its own.
        min_seconds: of one timing.

    Raises:
        ValueError: a number below 1, or an unknown device.
    """

    rounds: int = 11
    threads: int = 1
    device: str = "cpu"
    fused: bool = False
    memory: bool = True
    min_seconds: float = MIN_SECONDS

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}: measure at least 1, and 7 for claims")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}: torch computes with 1 or more")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}: take 'auto', 'cpu' or 'cuda'")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but torch finds none: take 'auto' or 'cpu'")

    @property
    def device_name(self) -> str:
        """What rows call the device."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"


@dataclass(frozen=True)
class TrainingStep:
    """A network under training.

    Args:
        step: forward, loss, backward, optimiser.
        optimiser: AdamW over ``parameter_groups``.
    """

    step: Callable[[], Any]
    optimiser: torch.optim.Optimizer

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimiser's state; there is none before the first step."""
        tensors = (t for s in self.optimiser.state.values() for t in s.values())
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def training_step(case: Case, model: nn.Module, x: Tensor, *, fused: bool = False) -> TrainingStep:
    """Make a training step of a network on the same inputs again and again.

    Args:
        case: whose loss is taken.
        model: dense, predicted or a peer.
        x: inputs; where they take a gradient, as inner layers' do, it is computed too.
        fused: AdamW's fused kernel.
    """
    model.train()
    groups = parameter_groups(model, LEARNING_RATE, WEIGHT_DECAY)
    optimiser = torch.optim.AdamW(groups, fused=fused)

    def step() -> None:
        optimiser.zero_grad()
        x.grad = None
        case.loss(model(x)).backward()
        optimiser.step()

    return TrainingStep(step, optimiser)


def forward_pass(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    """Make a forward pass as in inference: evaluation mode, no gradients."""
    model.eval()
    x = x.detach()

    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return run
