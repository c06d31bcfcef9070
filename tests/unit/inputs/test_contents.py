"""Running a model leaves no trace: everything that its modules hold is as it was."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast.inputs.batches import call
from weightcast.inputs.undisturbed import evaluating


@dataclass
class State:
    n: int = 0
    seen: list[Tensor] = field(default_factory=list)


class Slots:
    __slots__ = ("n", "own")

    def __init__(self):
        self.n, self.own = 0, [0]


class Loop:
    def __init__(self):
        self.me, self.n = self, 0


def write(x: Tensor) -> None:
    with torch.no_grad():
        x.add_(1)


def bump(state, name="n"):
    setattr(state, name, getattr(state, name) + 1)


# What a module holds, and what its forward does with it.
ODD = {
    "a number": (lambda: 0, None),
    "a list": (lambda: [1], lambda held, x: held.append(x)),
    "a list that is emptied": (lambda: [1, 2], lambda held, x: held.clear()),
    "a dictionary": (lambda: {"n": 0}, lambda held, x: held.update(n=held["n"] + 1, more=x)),
    "a cache by shape": (dict, lambda held, x: held.setdefault(x.shape, len(held))),
    "a Counter": (Counter, lambda held, x: held.update("ab")),
    "a defaultdict": (lambda: defaultdict(list), lambda held, x: held["a"].append(1)),
    "an OrderedDict": (lambda: OrderedDict(a=1, b=2), lambda held, x: held.move_to_end("a")),
    "a set": (lambda: {1}, lambda held, x: held.add(len(held) + 1)),
    "a deque": (lambda: deque([1, 2], 2), lambda held, x: held.append(3)),
    "bytes": (lambda: bytearray(b"a"), lambda held, x: held.append(1)),
    "an array": (lambda: np.zeros(3), lambda held, x: held.__iadd__(1)),
    "a tensor": (lambda: torch.zeros(3), lambda held, x: write(held)),
    "tensors in a list": (lambda: [torch.zeros(3)], lambda held, x: write(held[0])),
    "lists in a tuple": (lambda: ([1], {"a": [2]}), lambda held, x: held[1]["a"].append(3)),
    "an object": (State, lambda held, x: (bump(held), held.seen.append(x))),
    "an object with slots": (Slots, lambda held, x: (bump(held), held.own.append(1))),
    "an object that knows itself": (Loop, lambda held, x: bump(held)),
    "an object that gains attributes": (Loop, lambda held, x: setattr(held, "late", x)),
    "torch's generator": (
        lambda: torch.Generator().manual_seed(3),
        lambda held, x: torch.rand(1, generator=held),
    ),
    "NumPy's generator": (lambda: np.random.default_rng(3), lambda held, x: held.random()),
    "NumPy's old generator": (lambda: np.random.RandomState(3), lambda held, x: held.rand()),
    "Python's generator": (lambda: random.Random(3), lambda held, x: held.random()),
    "generators in a dictionary": (
        lambda: {"a": torch.Generator().manual_seed(3)},
        lambda held, x: torch.rand(1, generator=held["a"]),
    ),
}


class Module(nn.Module):
    def __init__(self, held, use):
        super().__init__()
        torch.manual_seed(0)
        self.held, self.use = held, use
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        if self.use is None:
            self.held += 1
        else:
            self.use(self.held, x)
        return self.b(torch.relu(self.a(x)))


def told(value, depth=0):
    """All that a value holds, as something that can be compared."""
    if depth > 4:
        return "deep"
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return type(value), [(key, told(item, depth + 1)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return type(value), [told(item, depth + 1) for item in value]
    if isinstance(value, Slots):
        return value.n, value.own
    return told(vars(value), depth + 1) if hasattr(value, "__dict__") else value


@pytest.mark.parametrize("kind", ODD)
def test_a_run_leaves_what_a_module_holds(kind):
    make, use = ODD[kind]
    model = Module(make(), use)
    held, before = model.held, told(make())
    with evaluating(model):
        call(model, torch.ones(3, 8))
        call(model, torch.ones(3, 8))
        assert use is None or told(model.held) != before or kind.startswith("a cache")
    assert model.held is held
    assert told(model.held) == before


RULES = {"*": wc.Rule(wc.dictionaries.SingularVectors(), 0.5)}
VERBS = {
    "convert": lambda model, x: wc.convert(model, RULES, inputs=[x]),
    "compress": lambda model, x: wc.compress(model, RULES, inputs=[x, x], progress=False),
    "verify": lambda model, x: wc.verify(wc.convert(model, RULES, inputs=[x]), [x]),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_a_verb_leaves_what_a_module_holds(kind, verb):
    make, use = ODD[kind]
    model = Module(make(), use)
    held, before = model.held, told(make())
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    given = x.clone()
    VERBS[verb](model, x)
    assert model.held is held
    assert told(model.held) == before
    assert torch.equal(x, given)


def test_what_two_modules_share_is_restored_once_and_stays_shared():
    shared = [0]
    model = nn.Sequential(Module(shared, list.append), Module(shared, list.append))
    with evaluating(model):
        call(model, torch.ones(3, 8))
        assert len(shared) == 3
    assert shared == [0]
    assert model[0].held is model[1].held is shared


def test_tensors_that_were_not_written_into_keep_their_version():
    model = Module([torch.ones(3)], lambda held, x: None)
    version = model.held[0]._version
    with evaluating(model):
        call(model, torch.ones(3, 8))
    assert model.held[0]._version == version


def test_a_run_that_fails_leaves_no_trace_either():
    def fail(held, x):
        held.append(1)
        raise ValueError("no")

    model = Module([], fail)
    with pytest.raises(ValueError, match="no"), evaluating(model):
        model(torch.ones(3, 8))
    assert model.held == []
    assert copy.copy(model.held) == []
