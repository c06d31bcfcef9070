"""What every dictionary and layer does on a GPU: the same as on the CPU. Skipped without one."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import weightcast as wc
from tests.contract.table import DICTIONARIES, LAYERS
from weightcast import dictionaries as d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]

DEVICE = torch.device("cuda")


def gradients(layer, inputs):
    layer.zero_grad()
    y = layer(*inputs)
    y.square().sum().backward()
    return y.detach().cpu(), [p.grad.cpu() for p in layer.parameters()]


def assert_as_on_the_cpu(layer, inputs):
    moved, inputs_there = copy.deepcopy(layer).to(DEVICE), [x.to(DEVICE) for x in inputs]
    for path in ("factored", "materialised", "auto"):
        layer.path = moved.path = path
        (here, expected), (there, found) = gradients(layer, inputs), gradients(moved, inputs_there)
        torch.testing.assert_close(there, here, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    row = LAYERS[name]
    assert_as_on_the_cpu(row.build(columns=3), row.inputs())


@pytest.mark.parametrize("name", ["Linear", "Conv2d-all"])
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_dictionaries(dictionary, name):
    row = LAYERS[name]
    assert_as_on_the_cpu(row.build(dictionary, columns=2), row.inputs())


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 40), nn.Tanh(),
        nn.Linear(40, 10),
    )  # fmt: skip


PLAN = {
    "0": wc.Rule(d.DCT(), 0.5),
    "3": wc.Rule(d.Covariance(), 0.25, columns=4),
    "5": wc.Rule(d.RandomGaussian("orthonormal"), 0.5),
}


def examples():
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_model_on_the_gpu_is_converted_there(tmp_path):
    x = examples()
    here = wc.convert(make_model(), PLAN, x)
    there = wc.convert(make_model().to(DEVICE), PLAN, x.to(DEVICE))
    assert {p.device.type for p in there.parameters()} == {"cuda"}
    torch.testing.assert_close(there(x.to(DEVICE)).cpu().std(), here(x).std(), rtol=0.3, atol=0.0)
    wc.verify(there, x.to(DEVICE))
    wc.save(there, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", make_model())
    torch.testing.assert_close(loaded(x), there(x.to(DEVICE)).cpu(), rtol=1e-3, atol=1e-4)
    merged = wc.merge(there)
    torch.testing.assert_close(merged(x.to(DEVICE)), there(x.to(DEVICE)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("inputs", [None, examples()], ids=["from weights", "with inputs"])
def test_compress_probe_and_suggest(inputs):
    x, model = examples().to(DEVICE), make_model().to(DEVICE)
    inputs = None if inputs is None else inputs.to(DEVICE)
    plan = {key: wc.Rule(d.SingularVectors(), 0.9) for key in ("3", "5")}
    small = wc.compress(model, plan, inputs)
    with torch.no_grad():
        assert float((small(x) - model(x)).norm() / model(x).norm()) < 0.3
    assert wc.probe(model, inputs=inputs).rows
    wc.compress(model, wc.suggest(model, inputs=x, budget=0.5), x)


def test_compiled_under_autocast():
    x, model = examples().to(DEVICE), wc.convert(make_model(), PLAN, examples()).to(DEVICE)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-4)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        difference = compiled(x).float() - model(x).float()
    assert float(difference.detach().abs().max()) < 0.1


def test_a_training_step_is_one_cuda_graph():
    x, model = examples().to(DEVICE), wc.convert(make_model(), PLAN, examples()).to(DEVICE)
    optimiser = torch.optim.SGD(wc.parameter_groups(model, 0.01), lr=0.01)

    def step():
        optimiser.zero_grad(set_to_none=False)
        loss = model(x).square().mean()
        loss.backward()
        optimiser.step()
        return loss

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    graph.replay()
    first = float(loss.detach())
    for _ in range(20):
        graph.replay()
    assert float(loss.detach()) < first


def test_one_process_over_nccl():
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        x, model = examples().to(DEVICE), wc.convert(make_model(), PLAN, examples()).to(DEVICE)
        expected = model(x)
        parallel = DistributedDataParallel(model, device_ids=[0])
        y = parallel(x)
        y.square().mean().backward()
        torch.testing.assert_close(y, expected)
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()
