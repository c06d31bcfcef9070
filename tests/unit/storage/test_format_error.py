"""Whatever is wrong with a file is told by one error, in few characters that can be printed."""

from __future__ import annotations

import pytest

import weightcast as wc
from weightcast.storage.format_error import excerpt, naming, parse_json, refusing


@pytest.mark.parametrize("error", [KeyError("x"), OverflowError("x"), RuntimeError("x")])
def test_nonsense_in_a_file_becomes_a_format_error(error):
    message = r"^cannot be read: '?x'?$"
    with pytest.raises(wc.FormatError, match=message) as raised, refusing("cannot be read"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [wc.FormatError("has no end"), OSError("disk"), SystemExit()])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, refusing("cannot be read"):
        raise error
    assert raised.value is error


def test_an_error_names_the_place():
    with pytest.raises(wc.FormatError, match=r"^folder/a has no end$"), naming("folder/a"):
        raise wc.FormatError("has no end")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueError("3 is odd"), "3 is odd"),
        (ValueError("a\nb\x1b"), r"a\nb\x1b"),
        (["a", 1], "['a', 1]"),
        ("\n", r"'\n'"),
        ("x" * 600, f"'{'x' * 499} ..."),
    ],
)
def test_excerpts_are_short_and_can_be_printed(value, text):
    assert excerpt(value) == text


def test_text_is_parsed_as_json():
    assert parse_json(b'{"a": [1, 2.5, null, "x"]}', "file") == {"a": [1, 2.5, None, "x"]}
    for text in (b"", b"[", b"NaN", b"1e999", b'{"a": 1, "a": 2}', b"\xff", b"[" * 30_000):
        with pytest.raises(wc.FormatError, match=r"^is damaged: file: "):
            parse_json(text, "file")
