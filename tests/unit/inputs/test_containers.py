"""Batches in containers of every kind: given whole, and to every pass as they were."""

from __future__ import annotations

import threading
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from transformers import BatchEncoding, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

import weightcast as wc
from weightcast.inputs.batches import as_batches, call, given_tensors, on_device

SINGULAR = wc.Rule(wc.dictionaries.SingularVectors(), 0.5)
Pair = namedtuple("Pair", "x other")


@dataclass
class Fields:
    x: Tensor


@dataclass(frozen=True, slots=True)
class Slots:
    x: list[Tensor]


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.x, self.me = x, self  # as graphs and caches that know themselves


class Locked(Graph):
    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.lock = threading.Lock()


def cache(x: Tensor) -> DynamicCache:
    filled = DynamicCache()
    filled.update(x[None, None], x[None, None], 0)
    return filled


def needs_a_gradient(x: Tensor) -> Graph:
    return Graph(x.requires_grad_() * 1)  # no leaf, which deepcopy alone refuses


# From x to a container of it, and back to its tensor.
CONTAINERS: dict[str, tuple[Any, Any]] = {
    "dict": (lambda x: {"held": {"x": x}}, lambda held: held["x"]),
    "OrderedDict": (lambda x: {"held": OrderedDict(x=x)}, lambda held: held["x"]),
    "UserDict": (lambda x: {"held": UserDict(x=x)}, lambda held: held["x"]),
    "UserDict as the batch": (lambda x: UserDict(held=[x]), lambda held: held[0]),
    "BatchEncoding": (lambda x: BatchEncoding({"held": [x]}), lambda held: held[0]),
    "BatchEncoding within": (lambda x: {"held": BatchEncoding({"x": x})}, lambda held: held["x"]),
    "ModelOutput": (lambda x: {"held": BaseModelOutput(x)}, lambda held: held.last_hidden_state),
    "Cache": (lambda x: {"held": cache(x)}, lambda held: held.layers[0].keys[0, 0]),
    "list": (lambda x: {"held": [x]}, lambda held: held[0]),
    "list of lists": (lambda x: ([[x]], 3), lambda held: held[0][0]),
    "tuple": (lambda x: {"held": (1, x)}, lambda held: held[1]),
    "deque": (lambda x: deque([x]), lambda held: held[0]),
    "named tuple": (lambda x: Pair(x, torch.zeros(3)), lambda held: held.x),
    "named tuple in a pair": (lambda x: (Pair(x, None), torch.zeros(3)), lambda held: held.x),
    "packed sequence": (lambda x: pack_sequence([x]), lambda held: held.data),
    "dataclass": (Fields, lambda held: held.x),
    "slots": (lambda x: Slots([x]), lambda held: held.x[0]),
    "namespace": (lambda x: SimpleNamespace(x=x), lambda held: held.x),
    "object": (Graph, lambda held: held.x),
    "object with a gradient": (needs_a_gradient, lambda held: held.x),
    "object of objects": (lambda x: Graph([Graph(x)]), lambda held: held.x[0].x),
    "module": (lambda x: nn.ParameterList([nn.Parameter(x)]), lambda held: held[0]),
    "NumPy": (lambda x: {"held": x.numpy()}, torch.from_numpy),
}


class Net(nn.Module):
    """Writes into what it is given, and into the container where there is a way."""

    def __init__(self, read) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.read, self.kinds = nn.Linear(8, 8), nn.Linear(8, 8), read, set()

    def forward(self, held):
        self.kinds.add(type(held))
        x = self.read(held)
        y = self.b(torch.relu(self.a(x)))
        with torch.no_grad():
            x.mul_(2)
        if isinstance(held, (list, deque)):
            held.append(None)
        elif isinstance(held, (dict, UserDict)):
            held["more"] = 1
        elif isinstance(held, Graph):
            held.x = None
        return y


def rows() -> Tensor:
    return torch.randn(30, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.filterwarnings("error")
def test_every_pass_sees_the_batch_as_it_was_given(kind):
    make, read = CONTAINERS[kind]
    model, batch = Net(read), make(rows())
    first, second = call(model, batch), call(model, batch)
    expected = model.b(torch.relu(model.a(rows())))
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert len(model.kinds) == 1
    again = make(rows())
    for mine, fresh in zip(given_tensors(batch), given_tensors(again), strict=True):
        assert torch.equal(mine, fresh)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_network_is_compressed_alike_whatever_holds_its_inputs(kind):
    make, read = CONTAINERS[kind]
    plain = wc.compress(Net(lambda x: x), {"*": SINGULAR}, inputs=[rows()], progress=False)
    small = wc.compress(Net(read), {"*": SINGULAR}, inputs=[make(rows())], progress=False)
    torch.testing.assert_close(small.b.V, plain.b.V)
    assert len(wc.verify(small, [make(rows())])) == 2


@pytest.mark.parametrize("kind", [kind for kind in CONTAINERS if kind not in ("module", "NumPy")])
def test_a_batch_goes_to_a_device_whatever_holds_it(kind):
    make, _ = CONTAINERS[kind]
    moved = given_tensors(on_device(make(rows()), torch.device("meta")))
    assert moved
    assert all(x.is_meta for x in moved if x.dtype != torch.int64)


@pytest.mark.parametrize("inputs", [Pair(rows(), rows()[:, 0]), pack_sequence([rows()])])
def test_named_tuples_and_packed_sequences_are_one_batch(inputs):
    assert as_batches(inputs) == [inputs]
    assert as_batches([inputs]) == [inputs]


def test_a_recurrent_network_is_given_its_packed_sequence():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.LSTM(6, 8)

        def forward(self, x):
            assert isinstance(x, PackedSequence)
            return self.rnn(x)[0]

    sequences = [torch.randn(n, 6) for n in (9, 5, 3)]
    small = wc.compress(
        Recurrent(), {"rnn": SINGULAR}, inputs=[pack_sequence(sequences)], progress=False
    )
    assert small(pack_sequence(sequences)).data.shape == (17, 8)


def test_what_cannot_be_copied_is_passed_on_with_a_warning():
    x = rows()
    with pytest.warns(UserWarning, match="a batch holds a Locked that cannot be copied"):
        y = call(Net(lambda held: held.x), Locked(x))
    assert y.shape == (30, 8)


def test_tied_tensors_of_a_batch_stay_tied():
    x = rows()
    seen = []
    call(Net(lambda held: seen.append(held) or held[0]), {"held": [x, Graph(x)]})
    assert seen[0][1].x is seen[0][0]
    assert seen[0][1].me is seen[0][1]
