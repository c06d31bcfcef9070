"""broadcast_constants in one process; tests/integration has two."""

from __future__ import annotations

import socket

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch was built without torch.distributed or without gloo",
)


def model(seed: int = 0, grid: tuple[int, ...] = (2, 3)) -> nn.Module:
    dense = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    return wc.convert(dense, {"0": wc.Rule(d.Kernel(), 0.5, grid=grid), "*": None}, seed=seed)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A process group of this process alone."""
    if "lo" in dict(map(reversed, socket.if_nameindex())):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_without_a_process_group_it_says_what_to_call():
    with pytest.raises(RuntimeError, match=r"no process group: call torch\.distributed\.init_pr"):
        wc.broadcast_constants(model())


@pytest.mark.usefixtures("alone")
def test_what_is_sent_replaces_constants_and_what_follows_from_them(monkeypatch):
    mine, theirs = model(0), model(1)
    V, x = mine[0].V.detach().clone(), torch.randn(5, 6)
    sent = {name: tensor.clone() for name, tensor in named(theirs)}
    assert not torch.equal(mine[0].atoms.indices, theirs[0].atoms.indices)
    # As if another process had sent its own, in the order of the names.
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda tensor, source, group: tensor.copy_(match(tensor))
    )
    order = iter(name for name, _ in named(mine))

    def match(tensor: torch.Tensor) -> torch.Tensor:
        found = sent[next(order)]
        assert found.shape == tensor.shape
        return found

    wc.broadcast_constants(mine)
    torch.testing.assert_close(mine[0].atoms.dictionaries(), theirs[0].atoms.dictionaries())
    torch.testing.assert_close(mine[0].atoms.project(x), theirs[0].atoms.project(x))
    assert torch.equal(mine[0].V, V)


def named(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The constants of the first layer's atoms, in the order in which they are sent."""
    from weightcast.dictionaries.constants import named_constants

    found = ((n, t) for n, t in named_constants(network) if not n.endswith("stacked"))
    return [(name.removeprefix("0.atoms."), tensor) for name, tensor in found]


@pytest.mark.usefixtures("alone")
def test_models_that_differ_are_refused_and_stay(monkeypatch):
    mine, other = model(), model(grid=(1, 6))
    before = mine[0].atoms.dictionaries().clone()
    shapes = {n: (tuple(t.shape), str(t.dtype)) for n, t in named(other)}

    def gather(everyone, own, group):
        everyone[:] = [own, {f"0.atoms.{name}": shape for name, shape in shapes.items()}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(ValueError, match=r"processes 0 and 1 differ in \d constants \(0\.atoms\."):
        wc.broadcast_constants(mine)
    assert torch.equal(mine[0].atoms.dictionaries(), before)
