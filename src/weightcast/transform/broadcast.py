"""broadcast_constants: one process's dictionaries for all, sent once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from weightcast.dictionaries import Atoms
from weightcast.dictionaries.atoms import DERIVED
from weightcast.dictionaries.constants import named_constants


def broadcast_constants(model: nn.Module, source: int = 0, group: Any = None) -> None:
    """Give every process the dictionaries of one: base, indices and mixing of all layers.

    Needed only where the processes converted with different inputs or seeds, for example each with
    its own share of the data. Every process of the group must call it, before the optimiser is
    made, on the device that the group's backend sends from. Learned weights are left alone:
    data-parallel training sends them itself when it starts.

    Args:
        model: with predicted layers.
        source: rank of the process whose dictionaries are sent.
        group: of processes; None takes all.

    Raises:
        ValueError: the processes' models differ in names or shapes; nothing is changed then.
        RuntimeError: torch.distributed has not been initialised.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError(
            "there is no process group: call torch.distributed.init_process_group first, in a "
            "script that torchrun starts"
        )
    held = named_constants(model)
    constants = {name: c for name, c in held if name.rpartition(".")[2] not in DERIVED}
    sent = {name: constant.clone() for name, constant in constants.items()}
    mine = {name: (tuple(c.shape), str(c.dtype)) for name, c in sent.items()}
    everyone: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(everyone, mine, group)
    for rank, theirs in enumerate(everyone):
        differing = sorted(dict(set(theirs.items()) ^ set(everyone[0].items())))
        if differing:
            raise ValueError(
                f"processes 0 and {rank} differ in {len(differing)} constants "
                f"({', '.join(differing[:3])}, ...): convert the same model "
                "with the same plan in every process"
            )
    for tensor in sent.values():
        torch.distributed.broadcast(tensor, source, group)
    for name, constant in constants.items():
        constant.copy_(sent[name])
    for module in model.modules():
        if isinstance(module, Atoms):
            module.refresh()
