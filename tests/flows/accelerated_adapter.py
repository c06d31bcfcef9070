"""``accelerate launch --multi_gpu --num_processes 2 accelerated_adapter.py OUT``, on CPUs.

Two processes adapt on their halves of every batch, one alone on whole ones: V is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

import weightcast as wc
from tests.flows.examples import texts
from tests.flows.networks import llama

BATCH, RATE = 8, 1e-2


def adapted() -> torch.nn.Module:
    """The same network, adapted alike, in double precision: sums in another order differ little."""
    set_seed(0)
    network = llama().double()
    plan = wc.suggest(network, learned=4_000, purpose="adapt", inputs=[texts()[:8]], progress=False)
    return wc.adapt(network, plan, inputs=[texts()[:8]])


def optimiser_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(wc.parameter_groups(model, RATE))


def learned(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


folder = Path(sys.argv[1])
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
network = adapted()
start = learned(network)
loader = DataLoader(TensorDataset(texts()), batch_size=BATCH // 2)
model, optimiser, loader = accelerator.prepare(network, optimiser_of(network), loader)
for (tokens,) in loader:
    assert len(tokens) == BATCH // 2
    accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
    optimiser.step()
    optimiser.zero_grad()
together = learned(accelerator.unwrap_model(model))

alone = adapted()
optimiser = optimiser_of(alone)
for tokens in texts().split(BATCH):
    alone(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    optimiser.zero_grad()
assert together.keys() == learned(alone).keys() == start.keys()
for name, value in learned(alone).items():
    torch.testing.assert_close(together[name], value, rtol=1e-6, atol=1e-9)
    assert (value - start[name]).abs().max() > 1e-3  # it did learn
(folder / f"done-{accelerator.process_index}").touch()
dist.monitored_barrier()
dist.destroy_process_group()
