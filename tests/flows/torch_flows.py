"""What torch itself saves, loads, copies, compiles and fuses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.nn.utils.fusion import fuse_conv_bn_eval

import weightcast as wc
from tests.flows.examples import classifier, digits
from tests.flows.flow import flow
from tests.flows.processes import run

PLAN = {
    "1": wc.Rule(wc.dictionaries.DCT(), 0.25),
    "3": wc.Rule(wc.dictionaries.DCT(), 0.25),
    "5": wc.Rule(wc.dictionaries.RandomGaussian(), 0.25),
}


@flow("torch.save(state_dict()), strict loading, deepcopy, to_empty from meta, assign", "torch")
def state_dicts(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN)
    torch.save(model.state_dict(), folder / "model.pt")
    state = torch.load(folder / "model.pt", weights_only=True)
    other = wc.convert(classifier(), PLAN, seed=1)
    other.load_state_dict(state)
    assert torch.equal(other(images), model(images))
    assert torch.equal(copy.deepcopy(model)(images), model(images))
    for assign in (False, True):
        empty = copy.deepcopy(other).to("meta")
        if not assign:
            empty = empty.to_empty(device="cpu")
        empty.load_state_dict(state, assign=assign)
        assert torch.equal(empty(images), model(images))


@flow("safetensors: save_file(state_dict()), save_model, load_model", "safetensors", "torch")
def safetensors_files(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN)
    safetensors.torch.save_file(model.state_dict(), folder / "state.safetensors")
    other = wc.convert(classifier(), PLAN, seed=1)
    other.load_state_dict(safetensors.torch.load_file(folder / "state.safetensors"))
    assert torch.equal(other(images), model(images))
    safetensors.torch.save_model(model, folder / "model.safetensors")
    other = wc.convert(classifier(), PLAN, seed=2)
    safetensors.torch.load_model(other, folder / "model.safetensors")
    assert torch.equal(other(images), model(images))


@flow("torch.distributed.checkpoint, one process", "torch")
def distributed_checkpoint(folder: Path) -> None:
    images, _ = digits()
    model = wc.convert(classifier(), PLAN)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=folder / "saved")
    other = wc.convert(classifier(), PLAN, seed=1)
    state = {"model": get_model_state_dict(other)}
    dcp.load(state, checkpoint_id=folder / "saved")
    set_model_state_dict(other, state["model"])
    assert torch.equal(other(images), model(images))


@flow("FSDP2, 2 processes: train, torch.distributed.checkpoint, full state dict", "torch")
def fully_sharded(folder: Path) -> None:
    run(
        "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
        "--nproc-per-node", "2", Path(__file__).with_name("sharded_training.py"), folder,
    )  # fmt: skip
    assert (folder / "done-0").exists()
    assert (folder / "done-1").exists()


@flow("torch.compile: training steps equal those without", "torch")
def compiled(folder: Path) -> None:
    images, labels = digits()
    model = wc.convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"1": PLAN["1"]})
    losses = []
    for network in (copy.deepcopy(model), torch.compile(copy.deepcopy(model))):
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        for batch in range(3):
            some = slice(64 * batch, 64 * batch + 64)
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(images[some]), labels[some])
            loss.backward()
            optimiser.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)


@flow(
    "Writing into layer.weight, in place or by an initialiser",
    "torch",
    remedy="call wc.merge(model) first",
)
def writing_weights(folder: Path) -> None:
    layer = wc.convert(nn.Linear(64, 48), wc.Plan({"": PLAN["1"]}))
    before = layer.weight.detach().clone()
    for write in (nn.init.zeros_, lambda W: W.data.add_(1.0), lambda W: W.detach().mul_(2.0)):
        with pytest.raises(Exception, match=r"wc\.merge"):
            write(layer.weight)
    assert torch.equal(layer.weight, before)
    layer.weight = nn.Parameter(torch.zeros(48, 64))


@flow("fuse_conv_bn_eval of a predicted convolution", "torch", remedy="call wc.merge(model) first")
def fusing(folder: Path) -> None:
    images, _ = digits()
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    predicted = wc.convert(network, {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    predicted(images)  # the statistics
    merged = wc.merge(predicted).eval()
    expected = merged(images)
    torch.testing.assert_close(fuse_conv_bn_eval(*merged)(images), expected)
    fused = fuse_conv_bn_eval(*predicted.eval())
    torch.testing.assert_close(fused(images), expected)
