"""Corrupted folders: what accidents do to files, and what somebody could do on purpose."""

from __future__ import annotations

import io
import json
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.saved_folders import checksum_of

Files = dict[str, bytes]
JSON_NAME, TENSORS_NAME = "weightcast.json", "model.safetensors"
HOSTILE_NUMBERS = [-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 1e308, -1e-308, 0.5]
HOSTILE_VALUES: list[Any] = [
    *HOSTILE_NUMBERS, None, True, "", "x" * 10_000, "../../etc/passwd", "/dev/zero", "os.system",
    [], {}, [[]], [10**9] * 3, {"kind": "Kernel"}, {"kind": "os"}, {"a": {"b": {"c": []}}}, ["x"],
]  # fmt: skip


def accidents(files: Files, choose: random.Random, count: int) -> Iterator[tuple[str, Files]]:
    """Changed bytes, ends that are missing, parts that are missing, doubled or exchanged."""
    kinds: list[Callable[[bytearray, random.Random], str]] = [
        _change_byte, _change_byte, _change_byte, _truncate, _truncate, _cut, _double, _exchange,
    ]  # fmt: skip
    for number in range(count):
        name = choose.choice([JSON_NAME, TENSORS_NAME, TENSORS_NAME])
        data = bytearray(files[name])
        what = kinds[number % len(kinds)](data, choose)
        yield f"{name}: {what}", files | {name: bytes(data)}


def header_accidents(files: Files) -> Iterator[tuple[str, Files]]:
    """Every byte of the header's length and the first of the header, and its ends."""
    data = files[TENSORS_NAME]
    for place in range(24):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            changed = bytes([*data[:place], value, *data[place + 1 :]])
            yield f"byte {place} is {value}", files | {TENSORS_NAME: changed}
    n_header = int.from_bytes(data[:8], "little")
    for end in (*range(12), n_header - 1, n_header, n_header + 7, n_header + 8, n_header + 9):
        yield f"cut off at {end}", files | {TENSORS_NAME: data[:end]}
    for length in (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, n_header - 8, n_header + 8):
        lying = length.to_bytes(8, "little") + data[8:]
        yield f"a header of {length} bytes", files | {TENSORS_NAME: lying}


def lying_headers(files: Files) -> Iterator[tuple[str, Files]]:
    """Headers that lie about dtypes, shapes and places."""
    data = files[TENSORS_NAME]
    n_header = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n_header]), data[8 + n_header :]
    for name in header:
        for change in (
            {"shape": [2**32, 2**32]}, {"shape": [2**62, 4]}, {"shape": [-1, -1]}, {"shape": [0]},
            {"shape": []}, {"shape": [1] * 2000}, {"shape": "12"}, {"shape": [1.0]},
            {"shape": [True]}, {"shape": None}, {"dtype": "F64"}, {"dtype": "F16"},
            {"dtype": "I32"}, {"dtype": "PICKLE"}, {"dtype": 3}, {"dtype": []},
            {"data_offsets": [0, 2**63]}, {"data_offsets": [2**64, 2**65]},
            {"data_offsets": [-8, 0]}, {"data_offsets": [0]}, {"data_offsets": [8, 0]},
            {"data_offsets": [0, len(body)]}, {"data_offsets": "ab"},
        ):  # fmt: skip
            yield (
                f"{name} {change}",
                _with_header(files, header | {name: header[name] | change}, body),
            )
        yield f"{name} is nothing", _with_header(files, header | {name: None}, body)
        renamed = {("../" + k if k == name else k): v for k, v in header.items()}
        yield f"{name} is renamed", _with_header(files, renamed, body)
    yield "a list", _with_header(files, [header], body)
    yield "metadata", _with_header(files, header | {"__metadata__": [1] * 50}, body)
    many = {f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    yield "100,000 empty tensors", _with_header(files, header | many, body)
    first = next(iter(header))
    text = json.dumps(header)
    twice = f'{{"{first}": {json.dumps(header[first])}, {text[1:]}'
    yield "a name twice", files | {TENSORS_NAME: _framed(twice.encode(), body)}


def lying_facts(files: Files, choose: random.Random, count: int) -> Iterator[tuple[str, Files]]:
    """Facts in which one value is another, sealed again by somebody who knows the checksum."""
    for _ in range(count):
        facts = json.loads(files[JSON_NAME])
        place, key, path = _random_place(facts, choose)
        value = choose.choice(HOSTILE_VALUES)
        if choose.random() < 0.15 and isinstance(place, dict):
            del place[key]
            what = f"{path} is missing"
        elif choose.random() < 0.1 and isinstance(place, dict):
            place[f"{key}{key}"] = value
            what = f"{path} has a neighbour {value!r:.40}"
        else:
            place[key] = value
            what = f"{path} is {value!r:.40}"
        yield what, files | {JSON_NAME: sealed(facts)}


def slow_plans(files: Files) -> Iterator[tuple[str, Files]]:
    """Plans that say the same in so many words that to do as they say would take long."""
    kernel: dict[str, Any] = {"kind": "RBF"}
    for _ in range(100):
        kernel = {"kind": "Sum", "k1": kernel, "k2": {"kind": "RBF"}}
    facts = json.loads(files[JSON_NAME])
    for name, rule in facts["plan"]["rules"].items():
        grid = rule["grid"] or {"kind": "Grid", "shape": [facts["layers"][name]["n_visible"]]}
        longer = grid | {"shape": [*grid["shape"], *[1] * 4000]}
        nested = {"kind": "Kernel", "kernel": {"kind": "ScikitLearnKernel", "kernel": kernel}}
        for what, change in (("axes", {"grid": longer}), ("kernels", {"dictionary": nested})):
            rules = facts["plan"]["rules"] | {name: rule | change}
            changed = facts | {"plan": facts["plan"] | {"rules": rules}}
            yield f"{name} has a thousand {what}", files | {JSON_NAME: sealed(changed)}


def odd_keys(files: Files) -> Iterator[tuple[str, Files]]:
    """Rules and layers under names that no layer has, some of which take long to make sense of."""
    facts = json.loads(files[JSON_NAME])
    name, rule = next(iter(facts["plan"]["rules"].items()))
    for key in (
        "*", "re:(", "re:" + "(" * 3000 + ")" * 3000, "re:" + "(?:a{1,99}){1,99}" * 2000,
        "\ud800", "\x1b[2J", "x" * 20_000, "", ".", "../" * 1000,
    ):  # fmt: skip
        rules = facts["plan"] | {"rules": facts["plan"]["rules"] | {key: rule}}
        layers = facts["layers"] | {key: facts["layers"][name]}
        yield f"a rule {key:.20}", files | {JSON_NAME: sealed(facts | {"plan": rules})}
        both = facts | {"plan": rules, "layers": layers}
        yield f"a layer {key:.20}", files | {JSON_NAME: sealed(both)}


def many_names(files: Files) -> Iterator[tuple[str, Files]]:
    """Names of empty tensors and of ties, as many as the JSON may hold, in both files."""
    facts = json.loads(files[JSON_NAME])
    data = files[TENSORS_NAME]
    n_header = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n_header]), data[8 + n_header :]
    names = [f"{number}" for number in range(3000)]
    tensors = facts["tensors"] | dict.fromkeys(names, "00000000")
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    entries = header | dict.fromkeys(names, empty)
    named = files | {JSON_NAME: sealed(facts | {"tensors": tensors})}
    yield "3,000 more tensors", _with_header(named, entries, body)
    ties = facts["ties"] | dict.fromkeys(names, next(iter(header)))
    yield "3,000 more ties", files | {JSON_NAME: sealed(facts | {"ties": ties})}


def other_files(files: Files) -> Iterator[tuple[str, Files]]:
    """Files of other kinds under these names."""

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("a pickle was executed",))

    pickled, zipped = pickle.dumps(Evil()), io.BytesIO()
    torch.save({"0.V": torch.zeros(3)}, zipped)
    for name in files:
        for what, data in (
            ("a pickle", pickled), ("a torch file", zipped.getvalue()), ("zeros", bytes(4096)),
            ("ones", b"\xff" * 4096), ("nothing", b""), ("HTML", b"<html>404</html>"),
            ("an LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            ("the other file", files[JSON_NAME if name == TENSORS_NAME else TENSORS_NAME]),
        ):  # fmt: skip
            yield f"{name} is {what}", files | {name: data}
    facts = json.loads(files[JSON_NAME])
    text = files[JSON_NAME].decode()
    schema = f'"schema": {facts["schema"]}'
    for what, changed in (
        ("a name twice", text.replace(schema, f"{schema}, {schema}")),
        ("nested without end", '{"schema": ' + "[" * 60_000),
        ("a number without end", '{"schema": ' + "9" * 60_000 + "}"),
        ("no number", text.replace(schema, '"schema": NaN')),
        ("a number too large", text.replace(schema, '"schema": 1e999')),
        ("a surrogate", text.replace('"schema"', '"\\ud800"')),
        ("UTF-16", text),
    ):
        encoded = changed.encode("utf-16" if what == "UTF-16" else "utf-8")
        yield f"JSON: {what}", files | {JSON_NAME: encoded}


def sealed(facts: dict[str, Any]) -> bytes:
    """Facts as JSON, with the checksum that they should have."""
    facts = {key: value for key, value in facts.items() if key != "checksum"}
    return json.dumps(facts | {"checksum": checksum_of(facts)}).encode()


def _random_place(facts: Any, choose: random.Random) -> tuple[Any, Any, str]:
    """A random value in nested JSON: its container, its key, and how to name it."""
    place, path = facts, ""
    while True:
        key = choose.choice(list(place) if isinstance(place, dict) else range(len(place)))
        path = f"{path}/{key}"
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or choose.random() < 0.15:
            return place, key, path
        place = inner


def _with_header(files: Files, header: Any, body: bytes) -> Files:
    return files | {TENSORS_NAME: _framed(json.dumps(header).encode(), body)}


def _framed(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _change_byte(data: bytearray, choose: random.Random) -> str:
    place = choose.randrange(len(data))
    before = data[place]
    data[place] ^= choose.randrange(1, 256)
    return f"byte {place} from {before} to {data[place]}"


def _truncate(data: bytearray, choose: random.Random) -> str:
    end = choose.randrange(len(data))
    del data[end:]
    return f"cut off at {end}"


def _cut(data: bytearray, choose: random.Random) -> str:
    start, size = choose.randrange(len(data)), choose.choice([1, 8, 64, 512])
    del data[start : start + size]
    return f"{size} bytes missing at {start}"


def _double(data: bytearray, choose: random.Random) -> str:
    start, size = choose.randrange(len(data)), choose.choice([1, 8, 64, 512])
    data[start:start] = data[start : start + size]
    return f"{size} bytes twice at {start}"


def _exchange(data: bytearray, choose: random.Random) -> str:
    size = choose.choice([1, 4, 16])
    a, b = sorted(choose.sample(range(len(data) - size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return f"{size} bytes at {a} and {b} exchanged"
