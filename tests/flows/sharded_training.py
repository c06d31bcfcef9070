"""``torchrun --nproc-per-node 2 sharded_training.py OUT``, by torch_flows."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import fully_shard

import weightcast as wc
from tests.flows.examples import classifier, digits

folder = Path(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
images, labels = digits()
some = slice(rank * 64, rank * 64 + 64)
PLAN = {
    "1": wc.Rule(wc.dictionaries.DCT(), 0.25),
    "3": wc.Rule(wc.dictionaries.DCT(), 0.25),
    "5": wc.Rule(wc.dictionaries.RandomGaussian(), 0.25),
}


def sharded(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = wc.convert(classifier(), PLAN, seed=seed)
    for index in (1, 3, 5):
        fully_shard(model[index])
    fully_shard(model)
    return model


model = sharded(0)
optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
for _ in range(3):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(images[some]), labels[some]).backward()
    optimiser.step()
expected = model(images[:32])

dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "saved")
other = sharded(1)
state = {"model": get_model_state_dict(other)}
dcp.load(state, checkpoint_id=folder / "saved")
set_model_state_dict(other, state["model"])
assert torch.equal(other(images[:32]), expected)

options = StateDictOptions(full_state_dict=True, cpu_offload=True)
full = get_model_state_dict(model, options=options)
if rank == 0:
    alone = wc.convert(classifier(), PLAN, seed=2)
    alone.load_state_dict(full)
    torch.testing.assert_close(alone(images[:32]), expected)
(folder / f"done-{rank}").touch()
dist.monitored_barrier()
dist.destroy_process_group()
