"""Frozen dataclasses as JSON data and back, and as printed tables; unknown words name the nearest.

Dictionaries, kernels, grids, rules and plans are frozen dataclasses, so the object *is* the
configuration. Its JSON form is an object with the class's name under ``kind`` and one entry per
field. There is no registry: the class is found among the subclasses of the annotated field type.
"""

from __future__ import annotations

import dataclasses
import decimal
import difflib
import functools
import inspect
import json
import numbers
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

T = TypeVar("T")
_MISSING = dataclasses.MISSING


class Plain:
    """A frozen dataclass whose simple fields hold Python's own types, whatever they were given as.

    NumPy's numbers, tensors of one number, arrays and lists for tuples, fractions and members of
    enumerations become what JSON gives back; before a class's own ``__post_init__`` looks at them.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if check := vars(cls).get("__post_init__"):

            @functools.wraps(check)
            def normalised(self: Any) -> None:
                Plain.__post_init__(self)
                check(self)

            cls.__post_init__ = normalised

    def __post_init__(self) -> None:
        """ValueError for a field that is of another type, or none of its choices."""
        hints = field_types(type(self))
        for name in (f.name for f in dataclasses.fields(self)):  # pyright: ignore[reportArgumentType]
            value, hint = getattr(self, name), hints[name]
            if type(value) is hint or isinstance(value, Plain):  # as nearly all are
                continue
            try:
                found = plain(value, hint)
                if isinstance(value, dict) and dict[str, Any] in (hint, *typing.get_args(hint)):
                    found = encode(value)
                    json.dumps(found, allow_nan=False)
            except ValueError as error:
                raise ValueError(f"{name} is {value!r}: {error}") from error
            if typing.get_origin(hint) is typing.Literal and found not in typing.get_args(hint):
                choices = ", ".join(map(repr, typing.get_args(hint)))
                kind = type(self).__name__
                raise ValueError(f"{kind}: {name} is {value!r}, none of {choices}")
            if found is not value:
                object.__setattr__(self, name, found)


class Configuration(Plain):
    """A frozen dataclass that is read from JSON data and written as such."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return encode(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> Self:
        """Read what :meth:`to_dict` gives; ``where`` names the place in errors."""
        return decode(cls, dict(data), where)


def encode(value: Any) -> Any:
    """Turn a configuration object into JSON data; a ValueError names the type that has none."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if hasattr(value, "to_json_data"):
        return value.to_json_data()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        brief = {f.name: f.default for f in dataclasses.fields(value) if f.metadata.get("brief")}
        written = {k: encode(x) for k, x in fields.items() if k not in brief or x is not brief[k]}
        return {"kind": kind_of(type(value)), **written}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if type(found := plain(value)) in (str, int, float, bool):
        return found
    raise ValueError(
        f"a {type(value).__name__} has no JSON form, so this configuration cannot be written as "
        "text: build it from classes of weightcast, or keep it in Python"
    )


def plain(value: Any, hint: Any = Any) -> Any:
    """A number, text or sequence in Python's own types, if it is one and ``hint`` asks for one.

    Raises:
        ValueError: ``hint`` is for such alone, and the value is none; it says what is.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # NumPy's, torch's, and arrays of one number
    for base in (int, float, str):
        if isinstance(value, base) and type(value) not in _WORDS:  # of an enumeration, too
            value = str.__str__(value) if isinstance(value, str) else base(value)
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
    for option in options:
        if option in _WORDS and (fitting := _number_as(value, option)) is not None:
            return fitting
        if typing.get_origin(option) is tuple and not isinstance(value, (str, bytes, Mapping)):
            items: Any = value
            items = items.tolist() if hasattr(items, "tolist") else items
            if isinstance(items, Iterable):
                return tuple(plain(item, typing.get_args(option)[0]) for item in items)
    words = [_WORDS.get(typing.get_origin(option) or option) for option in options]
    if None in words:  # of a type that looks after itself
        return value
    raise ValueError(f"it must be {' or '.join(dict.fromkeys(map(str, words)))}")


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    tuple: "a sequence",
}


def _number_as(value: Any, kind: type) -> Any:
    """The value as it is, or as a float, if ``kind`` may hold it; else None."""
    if kind is float and isinstance(value, (numbers.Real, decimal.Decimal)):
        try:
            number = float(value)
        except OverflowError:
            return None
        return None if isinstance(value, bool) else value if isinstance(value, int) else number
    return value if type(value) is kind else None


def decode(kind: type[T], data: Any, where: str = "") -> T:
    """Build an instance of ``kind``, or of the subclass that ``data["kind"]`` names.

    Missing fields take their defaults. ``where`` names the place in error messages, as ``rule '0'``
    does; a ValueError tells the nearest valid kind or field.
    """
    where = where or kind.__name__
    if isinstance(data, kind):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping for a {kind.__name__}, got {data!r}")
    cls = kind if hasattr(kind, "from_json_data") else _find_class(kind, data, where)
    if hasattr(cls, "from_json_data"):
        return cls.from_json_data(data, where)  # pyright: ignore[reportAttributeAccessIssue]
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore[reportArgumentType]
    hints = field_types(cls)
    given = {key: item for key, item in data.items() if key != "kind"}
    for key in given:
        if key not in fields:
            raise ValueError(f"{where}: {kind_of(cls)} has no field {key!r}{nearest(key, fields)}")
    required = [f.name for f in fields.values() if f.default is f.default_factory is _MISSING]
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"{where}: {kind_of(cls)} needs {', '.join(map(repr, missing))}")
    values = {k: _decode_hint(hints[k], v, f"{where}, field {k!r}") for k, v in given.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # or a class's own __init__ takes other arguments
        raise ValueError(f"{where}: {error}") from error


def nearest(word: str, candidates: Iterable[str], *, list_all: bool = True) -> str:
    """The remedy part of an error: ``; did you mean 'x'?`` or, if wanted, ``; known: a, b, c``."""
    known = [str(candidate) for candidate in candidates]
    # Looking for what is near takes time that grows with both lengths, and files may hold anything.
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5) if len(word) < 100 else []
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known and list_all else ""


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotated types of a class's fields, evaluated once."""
    return typing.get_type_hints(cls)


def kind_of(cls: type) -> str:
    """How JSON data names a class: by its own ``KIND``, an older name, or by its name."""
    return vars(cls).get("KIND", cls.__name__)


def concrete_subclasses(kind: type) -> dict[str, type]:
    """``kind`` (if concrete) and all its concrete subclasses, by class name."""
    readable = dataclasses.is_dataclass(kind) or hasattr(kind, "from_json_data")
    found = {kind_of(kind): kind} if readable and not inspect.isabstract(kind) else {}
    for subclass in kind.__subclasses__():
        found |= concrete_subclasses(subclass)
    return found


def _find_class(kind: type, data: dict[str, Any], where: str) -> type:
    known = concrete_subclasses(kind)
    name = data.get("kind")
    if name is None:
        if kind_of(kind) in known:
            return kind
        raise ValueError(f"{where}: add 'kind', one of {', '.join(sorted(known))}")
    if not isinstance(name, str) or name not in known:
        hint = nearest(str(name), known)
        raise ValueError(f"{where}: there is no {kind.__name__} {name!r}{hint}")
    return known[name]


def _decode_hint(hint: Any, value: Any, where: str) -> Any:
    """Decode ``value`` as the annotated type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_decode_hint(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {k: _decode_hint(arguments[1], v, f"{where} {k!r}") for k, v in value.items()}
    if isinstance(hint, type):
        if hint in (int, float, str, bool):
            found = _number_as(value, hint)
            if found is None:
                raise ValueError(f"{where}: expected {hint.__name__}, got {value!r:.60}")
            return float(found) if hint is float else found
        if isinstance(value, (dict, hint)):
            return decode(hint, value, where)
    raise ValueError(f"{where}: cannot read {value!r} as {hint}")


def _decode_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in (option for option in options if option is not type(None)):
        try:
            return _decode_hint(option, value, where)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def aligned(lines: Sequence[Sequence[str]], n_names: int = 1, *, ruled: bool = False) -> str:
    """Lines of cells as text: the first n_names of each to the left, the others to the right.

    What is wider than the terminal (80 columns where there is none) folds: columns that do not fit
    follow below, beside the names again; a last column of names is wrapped instead. With ``ruled``
    the first line is a heading and the last one a total.
    """
    width = shutil.get_terminal_size().columns
    sizes = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    blocks, numbers = [], list(range(n_names, len(sizes)))
    while numbers or not blocks:
        shown, used = list(range(n_names)), sum(sizes[:n_names]) + 2 * n_names - 2
        while numbers and (len(shown) == n_names or used + 2 + sizes[numbers[0]] <= width):
            used += 2 + sizes[numbers[0]]
            shown.append(numbers.pop(0))
        room = max(20, width - used + sizes[n_names - 1]) if used > width else sizes[n_names - 1]
        block = [_line(cells, sizes, shown, n_names, room) for cells in lines]
        if ruled:
            rule = "-" * max(map(len, "\n".join(block).splitlines()))
            block = [block[0], rule, *block[1:-1], rule, block[-1]]
        blocks.append("\n".join(block))
    return "\n\n".join(blocks)


def _line(
    cells: Sequence[str], sizes: Sequence[int], shown: list[int], n_names: int, room: int
) -> str:
    """Some cells of a line, its last name wrapped to ``room`` letters, on one line or several."""
    indent = sum(sizes[: n_names - 1]) + 2 * n_names - 2
    first, *more = textwrap.wrap(cells[n_names - 1], room) or [""]
    names = [cell.ljust(sizes[i]) for i, cell in enumerate(cells[: n_names - 1])]
    numbers = [cells[i].rjust(sizes[i]) for i in shown[n_names:]]
    line = "  ".join([*names, first.ljust(min(room, sizes[n_names - 1])), *numbers]).rstrip()
    return "\n".join([line, *(" " * indent + rest for rest in more)])
