"""codec: frozen dataclasses to JSON data and back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightcast.serialization import aligned, concrete_subclasses, decode, encode, nearest


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True)
class Square(Shape):
    side: float = 1.0

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ValueError(f"side is {self.side}")

    def area(self) -> float:
        return self.side**2


@dataclass(frozen=True)
class Circle(Shape):
    radius: float

    def area(self) -> float:
        return 3 * self.radius**2


@dataclass(frozen=True)
class Drawing:
    shape: Shape
    size: tuple[int, ...] = (1, 2)
    title: str | None = None
    colour: Literal["red", "blue"] = "red"
    count: int = 1
    filled: bool = False
    named: dict[str, Shape] = field(default_factory=dict)
    anything: Any = None


DRAWING = Drawing(Circle(2.0), (3,), "t", "blue", 4, True, {"a": Square(2.0)}, [1, "x"])


def test_round_trip():
    text = json.dumps(encode(DRAWING))
    assert decode(Drawing, json.loads(text)) == DRAWING
    assert encode(Drawing(Square()))["shape"] == {"kind": "Square", "side": 1.0}


@settings(max_examples=50, deadline=None)
@given(
    shape=st.one_of(
        st.builds(Square, st.floats(0, 9)), st.builds(Circle, st.floats(allow_nan=False))
    ),
    size=st.lists(st.integers(), max_size=4).map(tuple),
    title=st.none() | st.text(),
    count=st.integers(),
    filled=st.booleans(),
)
def test_every_drawing_survives_json(shape, size, title, count, filled):
    drawing = Drawing(shape, size, title, count=count, filled=filled)
    assert decode(Drawing, json.loads(json.dumps(encode(drawing)))) == drawing


def test_missing_fields_take_their_defaults():
    assert decode(Drawing, {"shape": {"kind": "Square"}}) == Drawing(Square())


def test_an_instance_passes_and_integers_are_floats():
    assert decode(Shape, Square(3.0)) == Square(3.0)
    side = decode(Shape, {"kind": "Square", "side": 3}).side
    assert isinstance(side, float)


CIRCLE = {"kind": "Circle", "radius": 1.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shape": CIRCLE, "titel": "x"}, "no field 'titel'; did you mean 'title'?"),
        ({"shape": {"kind": "Circel"}}, "no Shape 'Circel'; did you mean 'Circle'?"),
        ({"shape": {"kind": "Hexagon"}}, "no Shape 'Hexagon'; known: Circle, Square"),
        ({"shape": {"radius": 1.0}}, "add 'kind', one of Circle, Square"),
        ({"shape": {"kind": "Circle"}}, "Circle needs 'radius'"),
        ({}, "Drawing needs 'shape'"),
        ({"shape": {"kind": "Square", "side": -1}}, "side is -1"),
        ({"shape": CIRCLE, "colour": "rad"}, "'rad' is none of 'red', 'blue'"),
        ({"shape": CIRCLE, "count": 1.5}, "field 'count': expected int, got 1.5"),
        ({"shape": CIRCLE, "count": True}, "expected int, got True"),
        ({"shape": CIRCLE, "filled": 1}, "expected bool, got 1"),
        ({"shape": CIRCLE, "title": 5}, "expected str, got 5"),
        ({"shape": {"kind": "Circle", "radius": True}}, "expected float, got True"),
        ({"shape": CIRCLE, "size": "big"}, "cannot read 'big'"),
        ({"shape": CIRCLE, "size": [1, "2"]}, "expected int, got '2'"),
        ({"shape": [1]}, "cannot read"),
        ([1], r"expected a mapping for a Drawing, got \[1\]"),
    ],
)
def test_mistakes_name_the_place_and_the_remedy(data, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as error:
        decode(Drawing, data, "config 'x'")
    assert str(error.value).startswith("config 'x'")


def test_what_has_no_json_form_is_refused():
    with pytest.raises(ValueError, match="a object has no JSON form"):
        encode(Drawing(Square(), anything=object()))
    with pytest.raises(ValueError, match="a set has no JSON form"):
        encode({"a": {1}})


def test_nearest():
    assert nearest("fracton", ["fraction", "columns"]) == "; did you mean 'fraction'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("zzz", []) == ""


def test_concrete_subclasses_leave_out_abstract_ones():
    assert set(concrete_subclasses(Shape)) == {"Square", "Circle"}


TABLE = [
    ("layer", "kind", "learned weights", "share", "multiply-adds"),
    ("encoder.0", "Linear", "1,000", "5 %", "20"),
    ("head", "Linear", "10", "100 %", ""),
]


def test_a_table_that_fits_stands_in_one_piece(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert aligned(TABLE, n_names=2).splitlines() == [
        "layer      kind    learned weights  share  multiply-adds",
        "encoder.0  Linear            1,000    5 %             20",
        "head       Linear               10  100 %",
    ]


def test_columns_that_do_not_fit_follow_below_beside_the_names_again(monkeypatch):
    monkeypatch.setenv("COLUMNS", "42")
    assert aligned(TABLE, n_names=2, ruled=True).split("\n\n") == [
        "layer      kind    learned weights  share\n"
        "-----------------------------------------\n"
        "encoder.0  Linear            1,000    5 %\n"
        "-----------------------------------------\n"
        "head       Linear               10  100 %",
        "layer      kind    multiply-adds\n"
        "--------------------------------\n"
        "encoder.0  Linear             20\n"
        "--------------------------------\n"
        "head       Linear",
    ]


def test_long_words_are_wrapped_in_their_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    said = "has hooks, which a replaced layer would lose: remove them first"
    lines = aligned([("layer", "says"), ("encoder", said)], n_names=2).splitlines()
    assert lines[0] == "layer    says"
    assert lines[1].startswith("encoder  has hooks,")
    assert max(map(len, lines)) <= 40
    assert all(line.startswith(" " * 9) for line in lines[2:])
    assert " ".join(" ".join(lines[1:]).split()) == f"encoder {said}"


def test_a_table_has_80_columns_where_there_is_no_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = [("name", *(f"number {i}" for i in range(20)))]
    assert [len(block) <= 80 for block in aligned(wide).split("\n\n")] == [True] * 3
