"""What a checkpoint holds comes back as what it was, or is refused by its place on saving."""

from __future__ import annotations

import enum
import math
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import nn
from torch.optim import lr_scheduler

from weightcast.integrations.checkpoint_tree import decode
from weightcast.integrations.lightning import SafetensorsCheckpointIO
from weightcast.storage import FormatError

Point = namedtuple("Point", "x y")


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):  # noqa: UP042 - as it was written before 3.11
    RELU = "relu"


class Marks(enum.Flag):
    A = 1
    B = 2


@dataclass
class Fields:
    x: int


class Sub(dict):
    pass


def round_trip(value, tmp_path):
    file = tmp_path / "a.ckpt"
    SafetensorsCheckpointIO().save_checkpoint({"value": value}, file)
    return SafetensorsCheckpointIO().load_checkpoint(file)["value"]


VALUES = {
    "None": None, "True": True, "int": 3, "large": 10**400, "float": 0.1, "inf": math.inf,
    "-0.0": -0.0, "text": "caf\u00e9 \u2192 \U0001f600", "half a pair": "\ud800", "empty": "",
    "list": [1, [2]], "tuple": (1, (2,)), "no tuple": (),
    "dict": {1: 2, "1": 3, (1, 2): 4, None: 5},
    "OrderedDict": OrderedDict(b=1, a=2), "Counter": Counter("abca"), "no Counter": Counter(),
    "defaultdict": defaultdict(list, a=[1]), "defaultdict of none": defaultdict(int),
    "AttributeDict": AttributeDict(lr=0.1), "set": {1, 2}, "frozenset": frozenset({(1, 2)}),
    "deque": deque([1, 2]), "bounded": deque([1, 2], 5), "range": range(1, 9, 2),
    "named tuple": Point(1, [2]), "named tuple of tensors": Point(torch.ones(2), None),
    "IntEnum": Level.LOW, "text enum": Word.RELU, "flag": Marks.A, "Size": torch.Size([2, 3]),
    "dtype": torch.bfloat16, "device": torch.device("cuda", 1), "bytes": b"\x00\xff",
    "complex": 1 + 2j, "Fraction": Fraction(1, 3), "Decimal": Decimal("0.10"),
    "float32": np.float32(0.1), "float64": np.float64(0.1), "float16": np.float16(0.1),
    "int64": np.int64(3), "uint8": np.uint8(3), "bool_": np.bool_(True), "str_": np.str_("a"),
    "array": np.arange(6.0).reshape(2, 3), "array of bools": np.array([True, False]),
    "turned array": np.arange(6).reshape(2, 3).T, "no array": np.empty((0, 3), np.float32),
    "keys": {Level.LOW: 1, Point(1, 2): 2, np.int64(3): 3, 0.5: 4, b"x": 5},
    "milestones": {"milestones": Counter({2: 1, 4: 1})},
}  # fmt: skip


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, (np.ndarray, np.generic)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.requires_grad == other.requires_grad
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        for pair, other_pair in zip(one.items(), other.items(), strict=True):
            same(pair, other_pair)
        assert getattr(one, "default_factory", None) is getattr(other, "default_factory", None)
    elif isinstance(one, (list, tuple, deque)):
        for x, y in zip(one, other, strict=True):
            same(x, y)
        assert getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
    else:
        assert one == other
        assert math.copysign(1, one) == math.copysign(1, other) if type(one) is float else True


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_what_it_was(name, tmp_path):
    same(round_trip(VALUES[name], tmp_path), VALUES[name])


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2, requires_grad=True),
        torch.arange(4.0).expand(3, 4),
        torch.complex(torch.ones(2), torch.ones(2)).conj(),
        torch.ones(2, dtype=torch.uint16),
        torch.ones(2, dtype=torch.float8_e4m3fnuz).float(),
        torch.empty(0, 3),
        torch.tensor(3),
    ],
    ids=str,
)
def test_a_tensor_comes_back_as_what_it_was(tensor, tmp_path):
    same(round_trip(tensor, tmp_path), tensor)


def test_tied_tensors_are_kept_once(tmp_path):
    x = torch.ones(3)
    found = round_trip([x, x, x.view(3)], tmp_path)
    assert all(torch.equal(x, y) for y in found)
    assert found[0] is found[1]


@enum.unique
class _Hidden(enum.Enum):
    A = 1


def local_kinds():
    class Here(enum.Enum):
        A = 1

    Local = namedtuple("Local", "x")
    return [Here.A, Local(1)]


loop: list = []
loop.append(loop)


@pytest.mark.parametrize(
    "value",
    [
        object(), Fields(1), SimpleNamespace(x=1), Sub(a=1), ChainMap({}), Path("x"), len, Level,
        *local_kinds(), Marks.A | Marks.B, defaultdict(lambda: 3), np.array(["a"]),
        np.array([None]),
        np.longdouble(1), np.complex64(1), torch.eye(3).to_sparse(), torch.ones(2, device="meta"),
        torch.ones(2, dtype=torch.complex128), nn.Linear(2, 2), iter([1]), loop,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_would_not_is_refused_by_its_place(value, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint's value|nested too deeply"):
        round_trip(value, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["nowhere:Level", "os:system", "builtins:tuple", "x", ":"])
@pytest.mark.parametrize("tag", ["enum", "named"])
def test_a_class_that_is_none_of_those_imported_here_is_named(tag, place):
    with pytest.raises(ValueError, match=f"{place} is not known here"):
        decode({tag: [place, "LOW"]}, {})


def schedules(optimiser):
    yield lr_scheduler.MultiStepLR(optimiser, [2, 4])
    yield lr_scheduler.CosineAnnealingLR(optimiser, 5)
    yield lr_scheduler.OneCycleLR(optimiser, 0.1, 9)
    yield lr_scheduler.ReduceLROnPlateau(optimiser)
    yield lr_scheduler.CyclicLR(optimiser, 0.1, 0.2)
    warm = lr_scheduler.LinearLR(optimiser, 0.1, total_iters=2)
    yield lr_scheduler.SequentialLR(
        optimiser, [warm, lr_scheduler.MultiStepLR(optimiser, [2])], [2]
    )
    yield lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(optimiser, 2)])


@pytest.mark.parametrize("number", range(7))
@pytest.mark.filterwarnings("ignore")
def test_schedules_go_on_as_they_would_have(number, tmp_path):
    def make():
        optimiser = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
        return optimiser, list(schedules(optimiser))[number]

    (optimiser, schedule), (again, other) = make(), make()
    schedule.step(*[1.0] * (number == 3))
    state = {"o": optimiser.state_dict(), "s": schedule.state_dict()}
    found = round_trip(state, tmp_path)
    same(found, state)
    again.load_state_dict(found["o"])
    other.load_state_dict(found["s"])
    for _ in range(4):
        for one in (schedule, other):
            one.step(*[1.0] * (number == 3))
        assert again.param_groups[0]["lr"] == optimiser.param_groups[0]["lr"]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = LEAVES | st.binary() | st.just(Level.LOW)
TREES = st.recursive(
    LEAVES | st.just(torch.ones(2)) | st.floats(allow_nan=False).map(np.float64),
    lambda x: (
        st.lists(x)
        | st.lists(x).map(tuple)
        | st.lists(x).map(deque)
        | st.dictionaries(KEYS, x)
        | st.dictionaries(KEYS, x).map(OrderedDict)
        | st.dictionaries(KEYS, st.integers()).map(Counter)
        | st.tuples(x, x).map(lambda pair: Point(*pair))
    ),
    max_leaves=10,
)


@given(value=TREES)
def test_any_tree_comes_back(value, tmp_path_factory):
    same(round_trip(value, tmp_path_factory.getbasetemp()), value)


@given(place=st.integers(0, 2000), change=st.binary(min_size=1, max_size=8))
def test_a_damaged_checkpoint_is_refused_or_the_same(place, change, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    value = {"a": Point(1, torch.arange(6.0)), "b": Counter("ab"), "c": Level.LOW}
    SafetensorsCheckpointIO().save_checkpoint(value, file)
    data = bytearray(file.read_bytes())
    place %= len(data)
    data[place : place + len(change)] = change
    file.write_bytes(data)
    try:
        found = SafetensorsCheckpointIO().load_checkpoint(file)
    except FormatError:
        return
    same(found, value)
