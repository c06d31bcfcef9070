"""YAML as people write it: keys are text as written, and guesses end where they mislead."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weightcast.cli.yaml_files import parse_yaml, read_yaml

KEYS = [
    "0.10",
    "010",
    "0o10",
    "0x1F",
    "1:30",
    "1:30:45",
    "1_000",
    "1e3",
    "1.",
    ".5",
    "+1",
    "-0",
    ".inf",
    ".NaN",
    "no",
    "NO",
    "yes",
    "on",
    "off",
    "true",
    "False",
    "y",
    "n",
    "null",
    "~",
    "2024-01-01",
    "2001-12-14t21:59:43",
    "=",
    "<<x",
    "0b11",
    "blocks.0.10",
    "1.0.0",
    "*star",
]


@pytest.mark.parametrize("key", [*KEYS, "", "café", "a b", "re:a.*"])
def test_a_key_is_text_as_it_is_written(key):
    quoted = key.startswith("*")  # an alias, unless it is quoted
    written = f"'{key}'" if quoted else key or "''"
    for text in (f"{written}: 1", f"{{{written}: 1}}", f"? {written}\n: 1"):
        assert parse_yaml(text) == {key: 1}, text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("08", "08"), ("0o10", "0o10"), ("0x1F", 31), ("0", 0), ("1_000", 1000),
        ("-7", -7), ("+7", 7),
        ("0.10", 0.1), ("2e-3", 0.002), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-.5", -0.5),
        ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("0b11", "0b11"), ("1.0.0", "1.0.0"),
        ("2024-01-01", "2024-01-01"), ("12:00:00", "12:00:00"), ("=", "="), (".", "."), ("_", "_"),
        ("yes", True), ("No", False), ("on", True), ("OFF", False), ("true", True), ("y", "y"),
        ("~", None), ("null", None), ("", None), ("-", [None]), ("'010'", "010"), ('"no"', "no"),
        ("[1, [010]]", [1, ["010"]]), ("{a: {1: 2}}", {"a": {"1": 2}}),
    ],
)  # fmt: skip
def test_a_value_is_what_nobody_reads_otherwise(text, value):
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "the key 'a' comes twice"),
        ("{0.1: 1, '0.1': 2}", "the key '0.1' comes twice"),
        ("[1, 2]: 3", "a key that is a sequence"),
        ("{a: 1}: 3", "a key that is a mapping"),
        ("&x [*x]", "recursive"),
        ("&x {a: *x}", "recursive"),
        ("[" * 3000, "more than 100 levels"),
        ("{a: " * 3000, "more than 100 levels"),
        ("- " * 3000 + "1", "more than 100 levels"),
        ("!!python/object:os.system {}", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "single document"),
    ],
)
def test_what_misleads_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_what_is_merged_gives_way():
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}")["d"] == {"b": 3, "c": 2}


# PyYAML writes the text 1e5 without quotes, for it reads no number without a point; we do.
TEXTS = st.text().filter(lambda text: not re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", text))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TREES = st.recursive(SCALARS, lambda x: st.lists(x) | st.dictionaries(TEXTS, x), max_leaves=8)


@given(data=TREES)
def test_what_pyyaml_writes_comes_back(data):
    assert parse_yaml(yaml.safe_dump(data)) == data


@given(data=st.dictionaries(st.text(), TREES))
def test_what_is_json_comes_back(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "data.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    assert read_yaml(file) == data


@given(text=st.text() | st.text(st.sampled_from("{}[]:,- \n#&*!|>'\"%@`?~ab01.")))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ValueError):
        parse_yaml(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_files_are_utf_8_or_say_what_they_are(encoding, suffix, tmp_path):
    file = tmp_path / f"data.{suffix}"
    file.write_text('{"café": 1}', encoding=encoding)
    assert read_yaml(file) == {"café": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1,\n"caf\xe9": 1}', r"data.json: line 2 is no UTF-8 .*: save the file as UTF-8"),
        (b"\xff\xfe{", "is no UTF-16"),
        (b'{"a": 1, "a": 2}', "data.json is no JSON: the key 'a' comes twice"),
        (b"[" * 99_999, "data.json is nested too deeply"),
        (b"[1]", "holds a list"),
        (b"{", "data.json is no JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(data, message, tmp_path):
    file = tmp_path / "data.json"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_yaml(file)
