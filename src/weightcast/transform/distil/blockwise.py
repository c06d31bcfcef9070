"""Blockwise: every block of a network learns what the teacher's gives, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import InputsError, call, device_of, on_device, with_tensors
from weightcast.inputs.walk import block_of
from weightcast.layers import predicted_layers
from weightcast.transform.distil.losses import first_tensor, learn_from, matched, squared_error


def find_blocks(small: nn.Module, teacher: nn.Module) -> list[str]:
    """The blocks with predicted layers: entries of the outermost lists of modules, else layers.

    Where the teacher has no such module, as for a weight of a recurrent layer, what holds it.
    """
    theirs = dict(teacher.named_modules())
    found = dict[str, None]()
    for name in predicted_layers(small):
        block = block_of(small, name)
        while block not in theirs:
            block = block.rpartition(".")[0]
        found[block] = None
    return [b for b in found if not any(b.startswith(f"{other}.") for other in found if other != b)]


def learn_blockwise(
    small: nn.Module, teacher: nn.Module, blocks: Sequence[str], batch: Any
) -> float:
    """Add every block's gradient of its own squared error; return the mean of the errors.

    A block is given what the blocks below it, compressed, give; its output is compared with the
    teacher's, whose blocks below are dense. Gradients end where a block begins, and are taken as
    soon as it has run: the activations of one block are held at a time, and the teacher's outputs
    of all blocks on one batch.
    """
    targets: dict[str, list[Tensor]] = {name: [] for name in blocks}
    losses: list[float] = []

    def keep(name: str, output: Any) -> None:
        targets[name].append(first_tensor(output).detach().clone())  # some change it in place

    def learn(name: str, output: Any) -> None:
        try:
            y, target = matched(first_tensor(output), targets[name].pop(0))
            losses.append(learn_from(squared_error(y, target, batch) / len(blocks)))
        except ValueError as error:  # else the model would be said to have failed
            raise InputsError(f"block {name!r}: {error}") from error

    with ExitStack() as hooks, torch.no_grad():
        for name in blocks:
            block = teacher.get_submodule(name)
            hooks.enter_context(block.register_forward_hook(_telling(keep, name)))
        call(teacher, on_device(batch, device_of(teacher)))
    with ExitStack() as hooks:
        for name in blocks:
            block = small.get_submodule(name)
            hooks.enter_context(block.register_forward_pre_hook(_cut_off, with_kwargs=True))
            hooks.enter_context(block.register_forward_hook(_telling(learn, name)))
        call(small, batch)
    return sum(losses)


def _telling(take: Callable[[str, Any], None], name: str) -> Callable[..., None]:
    """A forward hook that tells a block's name and output."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        take(name, output)

    return hook


def _cut_off(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """What a block is called with, without the way that it came."""
    return with_tensors(arguments, Tensor.detach), with_tensors(keywords, Tensor.detach)
