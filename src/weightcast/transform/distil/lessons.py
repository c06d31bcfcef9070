"""distil: V learns what a dense network says on example inputs; labels are not needed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import as_batches, call, cut, device_of, given_tensors, on_device
from weightcast.inputs.progress import Progress
from weightcast.inputs.undisturbed import evaluating, gradients_kept, let_recurrent_learn
from weightcast.layers import predicted_layers
from weightcast.layers.models import check_values
from weightcast.layers.rule import layer_seed
from weightcast.optim import adam_state, load_adam_state, parameter_groups
from weightcast.serialization import Plain, aligned
from weightcast.transform.distil.blockwise import find_blocks, learn_blockwise
from weightcast.transform.distil.losses import Loss, find_loss, learn_from
from weightcast.transform.state_folder import StateFolder, digest

RATE = 5e-4
"""The learning rate where none is given: chosen on a language model, a CNN and an MLP."""

Kind = Literal["V", "bias", "norm"]
"""V (with a ``LowRank`` layer's U), biases, or the parameters of normalisations."""


@dataclass(frozen=True)
class Distilled:
    """How a network was distilled; printed as a table.

    Args:
        losses: of each step's batch, before the step.
    """

    losses: tuple[float, ...]

    def __str__(self) -> str:
        n, lines = len(self.losses), [("steps", "mean loss")]
        ends = sorted({round(n * part / 10) for part in range(1, 11)} - {0})
        for start, end in zip([0, *ends], ends, strict=False):
            mean = sum(self.losses[start:end]) / (end - start)
            lines.append((f"{start + 1:,} to {end:,}", f"{mean:.4g}"))
        return aligned(lines, n_names=1)


def distil(
    small: nn.Module,
    teacher: nn.Module,
    inputs: Any,
    steps: int,
    *,
    learning_rate: float | None = None,
    loss: Loss | Literal["kl", "squared"] | None = None,
    layerwise: bool = False,
    train: Collection[Kind] = ("V", "bias"),
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Distilled:
    """Train V, in place, so that a compressed network says what the dense one says.

    Every step takes one batch, in an order drawn anew for each pass over them, and moves V by Adam,
    at rates (``parameter_groups``) that rise over a tenth of the steps, then fall to zero. Both
    networks run in evaluation mode: without dropout, normalised by the statistics that they have.
    A step costs a run of the teacher, a run of the small network and its gradients. Held at a time:
    the outputs on one batch, what the gradients need (with ``layerwise`` those of one block), and
    of the trained numbers their first values, gradients and Adam's moments, four times as many. V
    is trained in its own dtype: float32 is advised.

    Args:
        small: with predicted layers, as ``compress`` makes it.
        teacher: the dense network; it is left as it is.
        inputs: example batches as for ``convert``, without labels; a single tensor is cut into
            batches of 100. Rows that are 0 in an ``attention_mask`` are left out of the loss.
        steps: batches to learn from.
        learning_rate: the largest, that of a dense layer; None takes 0.0005.
        loss: ``kl`` divergence of probabilities, ``squared`` error in units of the variance of the
            teacher's output, or a function of the student's output, the teacher's, and the batch,
            to a scalar. None takes ``kl`` for what is named ``logits``, as in outputs of
            transformers, where they are of classes that exclude each other; else ``squared``, of
            the first tensor that is returned.
        layerwise: compare the output of every block (an entry of the outermost list of modules, or
            a layer) in place of the network's, by squared errors, each block for itself.
        train: what is trained of what requires gradients: ``V`` (with a ``LowRank`` layer's U),
            ``bias`` of any layer, ``norm``: weights and biases of normalisations.
        seed: of the order, and of what the networks may draw.
        folder: for the state now and then. The same call goes on from there, on a CPU to bit-equal
            results.
        progress: whether to show a bar on a terminal, some lines elsewhere, on stderr.

    Returns:
        The losses. Everything but what is trained is as it was, modes and random states too.

    Raises:
        ValueError: what an argument cannot be; outputs of different shapes; a loss or gradient that
            is not finite. Whatever is raised, Ctrl-C too, ``small`` is what it was before the call;
            a folder keeps what was learned.
    """
    rate = RATE if learning_rate is None else learning_rate
    settings = DistilSettings(steps, rate, layerwise, tuple(dict.fromkeys(train)), seed)
    for network in (small, teacher):
        check_values(network)
    if layerwise and loss not in (None, "squared"):
        raise ValueError(f"loss is {loss!r}: layerwise compares by squared errors, leave it out")
    lesson = _Lesson(small, teacher, find_loss(loss, small), settings)
    batches = as_batches(cut(inputs), progress=progress)
    states = None
    if folder is not None:
        kind = loss if isinstance(loss, str) or loss is None else getattr(loss, "__qualname__", "")
        states = StateFolder(folder, "distillation", lesson.describe(batches) | {"loss": kind})
    with Progress("distilling", steps, show=progress) as shown, lesson.prepared():
        return lesson.run(batches, states, shown)


@dataclass(frozen=True)
class DistilSettings(Plain):
    """How a network is distilled; the arguments of :func:`distil`."""

    steps: int
    learning_rate: float
    layerwise: bool
    train: tuple[Kind, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}: it must be a whole number, 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate is {self.learning_rate}: it must be above 0, for example {RATE}"
            )
        if not self.train or set(self.train) - set(get_args(Kind)):
            raise ValueError(f"train is {self.train!r}: take some of {get_args(Kind)}")

    def share(self, step: int) -> float:
        """Of the learning rate: it rises in a tenth of the steps, and falls to zero."""
        return min(1.0, (step + 1) / (self.steps / 10)) * (self.steps - step) / self.steps


@dataclass
class _Lesson:
    """A small network that learns from its teacher."""

    small: nn.Module
    teacher: nn.Module
    measure: Loss
    settings: DistilSettings

    def __post_init__(self) -> None:
        self.trained = _trained(self.small, self.settings.train)
        theirs = {id(p) for p in self.teacher.parameters()}
        shared = [name for name, p in self.trained.items() if id(p) in theirs]
        if shared:
            raise ValueError(f"the teacher would change: {shared[0]!r} is its own parameter too")
        self.device = device_of(self.small)
        self.blocks = find_blocks(self.small, self.teacher) if self.settings.layerwise else []

    def describe(self, batches: Sequence[Any]) -> dict[str, Any]:
        """All that decides the result, but for the loss, as JSON data."""
        trained = {id(p) for p in self.trained.values()}
        rest = self.small.state_dict(keep_vars=True).items()
        tensors = (x for batch in batches for x in given_tensors(batch))
        return {
            **vars(self.settings),
            "train": list(self.settings.train),
            "inputs": digest(("", x) for x in tensors),
            "teacher": digest(self.teacher.state_dict().items()),
            "rest of the model": digest(item for item in rest if id(item[1]) not in trained),
            "initial": {"small": digest(self.trained.items())},
        }

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within, only what is trained takes gradients; afterwards all else is as it was."""
        every, trained = list(self.small.parameters()), list(self.trained.values())
        kept, flags = [p.detach().clone() for p in trained], [p.requires_grad for p in every]
        try:
            with evaluating(self.teacher), evaluating(self.small), gradients_kept(every):
                self.small.requires_grad_(False)
                for parameter in trained:
                    parameter.requires_grad_(True)
                let_recurrent_learn(self.small)
                with torch.enable_grad():
                    yield
        except BaseException:
            with torch.no_grad():
                for parameter, value in zip(trained, kept, strict=True):
                    parameter.copy_(value)
            raise
        finally:
            for parameter, flag in zip(every, flags, strict=True):
                parameter.requires_grad_(flag)

    def run(self, batches: Sequence[Any], states: StateFolder | None, shown: Progress) -> Distilled:
        """Train from the start, or from the state."""
        steps, state = self.settings.steps, states and states.load(0)
        losses: list[float] = []
        if state:
            losses = state[0]["losses"]
            for name, parameter in self.trained.items():
                parameter.data.copy_(state[1][f"small.{name}"])
        optimiser = torch.optim.Adam(parameter_groups(self.small, self.settings.learning_rate))
        rates = [group["lr"] for group in optimiser.param_groups]
        if state:
            rates = state[0]["rates"]  # a U that has learned would give others
            load_adam_state(optimiser, state[1], rates)
            shown.step(len(losses))
            shown.say(f"{len(losses)} of {steps} steps were done before")
        due = 0.0
        for step in range(len(losses), steps):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.settings.share(step)
            losses.append(self._step(step, batches, optimiser))
            shown.step()
            if shown.bar is not None or (step + 1) % max(1, steps // 20) == 0:
                shown.say(f"step {step + 1} of {steps}, loss {losses[-1]:.4g}")
            start = time.monotonic()
            if states is not None and (start >= due or step + 1 == steps):
                own = {f"small.{name}": p for name, p in self.trained.items()}
                facts = {"losses": losses, "rates": rates}
                states.save(0, facts, own | adam_state(optimiser))
                due = 11 * time.monotonic() - 10 * start  # it takes a tenth of the time at most
        return Distilled(tuple(losses))

    def _step(self, step: int, batches: Sequence[Any], optimiser: torch.optim.Optimizer) -> float:
        """One step of Adam; the loss before it."""
        epoch, place = divmod(step, len(batches))
        draws = torch.Generator().manual_seed(layer_seed(self.settings.seed, f"epoch {epoch}"))
        number = int(torch.randperm(len(batches), generator=draws)[place])
        torch.manual_seed(layer_seed(self.settings.seed, f"step {step}"))  # for their own draws
        batch = on_device(batches[number], self.device)
        optimiser.zero_grad()
        loss = self._learn(batch)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        if not gradients:
            raise ValueError(
                "the loss does not depend on what is trained: pass a loss of the student's output, "
                "and inputs that reach the predicted layers"
            )
        size = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(loss + size):
            raise ValueError(
                f"the loss became {loss}, the size of its gradient {size}, at step {step + 1} on "
                f"batch {number}: the model is as it was before. Take a smaller learning_rate, or "
                "look for values in the inputs that are not finite"
            )
        optimiser.step()
        return loss

    def _learn(self, batch: Any) -> float:
        """Leave the gradient of the loss on one batch; return the loss."""
        if self.settings.layerwise:
            return learn_blockwise(self.small, self.teacher, self.blocks, batch)
        with torch.no_grad():
            target = call(self.teacher, on_device(batch, device_of(self.teacher)))
        loss = self.measure(call(self.small, batch), target, batch)
        if not isinstance(loss, Tensor) or loss.dim():
            raise ValueError(f"the loss is {loss!r}: it must be a tensor without axes, a scalar")
        return learn_from(loss)


def _trained(small: nn.Module, kinds: Collection[Kind]) -> dict[str, nn.Parameter]:
    """The parameters to train by their first names; ValueError if there are none."""
    layers = predicted_layers(small)
    if not layers:
        raise ValueError("the small model has no predicted layer: compress or convert it first")
    kind_of = dict[int, Kind]()
    for layer in layers.values():
        for name, parameter in layer.named_parameters():
            kind_of.setdefault(id(parameter), "bias" if name == "bias" else "V")
    for module in small.modules():
        normalises = "Norm" in type(module).__name__  # transformers' own have no common class
        for name, parameter in module.named_parameters(recurse=False):
            if normalises or "bias" in name:
                kind_of.setdefault(id(parameter), "norm" if normalises else "bias")
    found = {
        name: p
        for name, p in small.named_parameters()
        if kind_of.get(id(p)) in kinds and p.requires_grad
    }
    if not found:
        raise ValueError(
            f"nothing of {', '.join(kinds)} requires a gradient: call requires_grad_(True), or "
            "name other kinds in train="
        )
    return found
