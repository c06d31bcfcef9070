"""Training and offloading with accelerate."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from accelerate import cpu_offload, disk_offload
from torch import nn

import weightcast as wc
from tests.flows.examples import classifier, digits
from tests.flows.flow import flow
from tests.flows.processes import run

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


@flow("accelerate launch, 2 processes: train, save_state, load_state, save_pretrained",
      "accelerate", "transformers")  # fmt: skip
def accelerate_launch(folder: Path) -> None:
    _launch("accelerated_training.py", folder)


@flow("accelerate launch, 2 processes: an adapted Llama learns as in one", "accelerate",
      "transformers")  # fmt: skip
def accelerated_adapter(folder: Path) -> None:
    _launch("accelerated_adapter.py", folder)


def _launch(script: str, folder: Path) -> None:
    run(
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        Path(__file__).with_name(script), folder,
    )  # fmt: skip
    assert (folder / "done-0").exists()
    assert (folder / "done-1").exists()


@flow("cpu_offload and disk_offload: the outputs are equal", "accelerate")
def offloading(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN).eval()
    expected = model(images[:8])
    for buffers in (False, True):
        there = cpu_offload(copy.deepcopy(model), "cpu", offload_buffers=buffers)
        assert all(p.is_meta for p in there.parameters())
        assert torch.equal(there(images[:8]), expected)
        there = disk_offload(copy.deepcopy(model), folder, "cpu", offload_buffers=buffers)
        assert torch.equal(there(images[:8]), expected)
    drawn = wc.convert(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        {"1": wc.Rule(wc.dictionaries.RandomGaussian(), 0.25)},
    )
    expected = drawn(images[:8])
    assert torch.equal(cpu_offload(drawn, "cpu")(images[:8]), expected)
