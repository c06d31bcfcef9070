"""What is done to a contender: a training step, a forward pass, and what their states weigh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        bf16: autocast to bfloat16; weights and optimiser state stay as they are.
        compiled: training steps by ``torch.compile``, on CUDA with graphs in place of launches.

    Raises:
        ValueError: a number below 1, or an unknown device.
    """

    rounds: int = 11
    threads: int = 1
    device: str = "cpu"
    fused: bool = False
    memory: bool = True
    min_seconds: float = MIN_SECONDS
    bf16: bool = False
    compiled: bool = False

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

    def to_dict(self) -> dict[str, Any]:
        """What rows say; what came later is left out where it is off, as in earlier rows."""
        later = {name for name in ("bf16", "compiled") if not getattr(self, name)}
        own = dataclasses.asdict(self) | {"device": self.device_name}
        return {name: value for name, value in own.items() if name not in later}

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Compilers forget what others had compiled, and never give up without a word."""
        if not self.compiled:
            yield
            return
        torch.compiler.reset()
        limits = {"recompile_limit": 64, "fail_on_recompile_limit_hit": True}
        try:
            with torch._dynamo.config.patch(limits):
                yield
        finally:
            torch.compiler.reset()


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


def training_step(
    case: Case,
    model: nn.Module,
    x: Tensor,
    *,
    fused: bool = False,
    bf16: bool = False,
    compiled: bool = False,
) -> TrainingStep:
    """Make a training step of a network on the same inputs again and again.

    Args:
        case: whose loss is taken.
        model: dense, predicted or a peer.
        x: inputs; where they take a gradient, as inner layers' do, it is computed too.
        fused: AdamW's fused kernel.
        bf16: forward and loss under autocast.
        compiled: forward and backward by ``torch.compile``, at the first step.
    """
    model.train()
    groups = parameter_groups(model, LEARNING_RATE, WEIGHT_DECAY)
    optimiser = torch.optim.AdamW(groups, fused=fused)
    autocast = torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16)
    run: Any = model
    if compiled:
        run = torch.compile(model, mode="reduce-overhead", dynamic=False)
        torch._dynamo.mark_static_address(x)  # as activations are: no copy into the graph's memory

    def step() -> None:
        optimiser.zero_grad()
        x.grad = None
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast:
            loss = case.loss(run(x))
        loss.backward()
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
