"""``accelerate launch --multi_gpu --num_processes 2 accelerated_training.py OUT``, on CPUs.

``--cpu`` would start both by mpirun only; ``--multi_gpu`` starts them by torch, and the script says
that it computes on the CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

import weightcast as wc
import weightcast.integrations.huggingface
from tests.flows.examples import texts
from tests.flows.networks import llama

folder = Path(sys.argv[1])
set_seed(0)
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
model = wc.convert(llama(), {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)})
loader = DataLoader(texts(), batch_size=4)
model, optimiser, loader = accelerator.prepare(
    model, torch.optim.AdamW(model.parameters(), 1e-3), loader
)
for step, tokens in enumerate(loader):
    loss = model(input_ids=tokens, labels=tokens).loss
    accelerator.backward(loss)
    optimiser.step()
    optimiser.zero_grad()
    if step == 2:
        accelerator.save_state(folder / "state")
        kept = {name: value.clone() for name, value in model.state_dict().items()}
accelerator.load_state(folder / "state")
for name, value in model.state_dict().items():
    assert torch.equal(value, kept[name]), name

network = accelerator.unwrap_model(model).eval()
network.save_pretrained(
    folder / "network",
    is_main_process=accelerator.is_main_process,
    save_function=accelerator.save,
)
accelerator.wait_for_everyone()
loaded = AutoModelForCausalLM.from_pretrained(folder / "network")
with torch.no_grad():
    assert torch.equal(loaded(texts()[:4]).logits, network(texts()[:4]).logits)
(folder / f"done-{accelerator.process_index}").touch()
dist.monitored_barrier()
dist.destroy_process_group()
