"""Files of rows as strangers, editors and killed writers leave them: read, or refused by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightcast.cli.main import main
from weightcast.cli.result_rows import append_row, check_rows
from weightcast_lab.report.figures import make_figures
from weightcast_lab.report.results import distinct, read_results
from weightcast_lab.report.terminal import figure_tables
from weightcast_lab.sweeps.rows import read_rows

ROW = {
    "schema": 1, "experiment": "a", "variant": "v", "dataset": "d", "seed": 0, "config": {},
    "counts": {"learned": 9}, "metrics": {"test_error": 1.0, "train_seconds": 1}, "versions": {},
}  # fmt: skip
BIG = "1" + "0" * 400


def line(**changes) -> str:
    return json.dumps({**ROW, **changes})


def raw(old: str, new: str) -> str:
    text = line()
    assert old in text
    return text.replace(old, new)


LINES = {
    "a huge whole number": (raw("1.0", BIG), "no finite number"),
    "a huger whole number": (raw("1.0", "1" + "0" * 9999), "no finite number"),
    "a huge number": (raw("1.0", "1e999"), "1e999 is no finite number"),
    "NaN": (raw("1.0", "NaN"), "NaN is no finite number"),
    "infinite": (raw("1.0", "-Infinity"), "-Infinity is no finite number"),
    "deep lists": ("[" * 99_999, "nested too deeply"),
    "deep objects": ('{"a":' * 99_999, "nested too deeply"),
    "deep config": (raw("{}", "[" * 9_999 + "]" * 9_999), "nested too deeply"),
    "twice": (raw('"seed"', '"variant"'), "a name comes twice"),
    "no JSON": (line()[:-9], "no JSON"),
    "single quotes": (line().replace('"', "'"), "no JSON"),
    "two in a line": (line() + line(), "no JSON"),
    "a comma behind": (line() + ",", "no JSON"),
    "a list": ("[1]", "a list, where a row is an object"),
    "a number": ("3", "a int, where a row is an object"),
    "null": ("null", "a NoneType, where a row is an object"),
    "another schema": (line(schema=2), "schema 2"),
    "no schema": (line(schema=None), "schema None"),
    **{
        f"{name} of {value!r:.20}": (line(**{name: value}), f"{name} is ")
        for name in ("experiment", "variant", "dataset")
        for value in ({}, [], 3, None, True)
    },
    **{
        f"seed of {value!r}": (line(seed=value), "seed is ")
        for value in ("0", 0.5, None, True, [0], {})
    },
    **{
        f"{name} of {value!r}": (line(**{name: value}), f"{name} is ")
        for name in ("config", "counts", "metrics", "versions")
        for value in ([], "x", 3, None)
    },
    **{
        f"a count of {value!r}": (line(counts={"learned": value}), "counts.learned is ")
        for value in (-5, 0.5, "9", True, [9], {})
    },
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_that_is_no_row_is_named(kind, tmp_path):
    bad, message = LINES[kind]
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{line()}\n\n{bad}\n", encoding="utf-8")
    for read in (read_rows, lambda path: read_results([path])):
        with pytest.raises(ValueError, match=r"rows.jsonl, line 3") as error:
            read(file)
        assert message in str(error.value)
    cut = kind in ("no JSON", "single quotes", "two in a line", "a comma behind")
    assert ("delete the line" in str(error.value)) == cut


@pytest.mark.parametrize("kind", LINES)
def test_the_report_tells_it_in_one_line(kind, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{line()}\n{LINES[kind][0]}\n", encoding="utf-8")
    assert main(["report", str(file), "--images", "false", "--output", str(tmp_path / "page")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{file}, line 2" in told
    assert not (tmp_path / "page").exists()


METRICS = [{}, {"test_error": None}, {"test_error": "1"}, {"test_error": [1]}, {"test_error": True}]


@pytest.mark.parametrize("metrics", METRICS)
def test_a_metric_that_is_no_number_is_told_with_its_file_and_line(metrics, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    bad = line(experiment="b", metrics={"train_seconds": 1, **metrics})
    file.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    assert main(["report", str(file), "--images", "false", "--output", str(tmp_path / "page")]) == 2
    assert f"{file}, line 2" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_rows_are_read_in_what_their_first_bytes_say(encoding, end, tmp_path):
    file = tmp_path / "rows.jsonl"
    text = json.dumps({**ROW, "variant": "café"}, ensure_ascii=False)
    file.write_bytes((text + end + text).encode(encoding))
    assert [row["variant"] for row in read_rows(file)] == ["café", "café"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_and_nobody_is_told_to_delete_lines(encoding, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes((line() + "\n" + line(variant="v").replace("v", "é")).encode(encoding))
    with pytest.raises(ValueError, match=r"rows.jsonl(, line [12])? .*(UTF-8|UTF-16)") as error:
        read_results([file])
    assert "save the file as UTF-8" in str(error.value)
    assert "delete" not in str(error.value)


def test_no_row_is_appended_to_another_encoding(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(line(), encoding="utf-16")
    with pytest.raises(ValueError, match="in UTF-16, and rows are UTF-8"):
        check_rows(file)


@pytest.mark.parametrize("command", ["report", "train", "probe", "convert", "compress"])
def test_a_home_folder_that_does_not_exist_is_one_line(command, capsys):
    output = ["--output", "out"] if command in ("convert", "compress") else []
    assert main([command, "~nobody-here/rows.jsonl", *output]) == 2
    told = capsys.readouterr().err
    assert "nobody-here" in told
    assert "Traceback" not in told


@given(data=st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_line(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(data)
    try:
        assert read_rows(file) == []
    except ValueError as error:
        assert str(file) in str(error)  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(ROW)), value=JSON)
def test_any_entry_is_reported_or_a_line(name, value, tmp_path_factory):
    place = tmp_path_factory.getbasetemp()
    (place / "one.jsonl").write_text(line(**{name: value}), encoding="utf-8")
    try:
        found = distinct(read_results([place / "one.jsonl"]))
        assert figure_tables(make_figures(found))
    except ValueError as error:
        assert "one.jsonl, line 1" in str(error)  # noqa: PT017


def test_what_is_appended_is_read(tmp_path):
    append_row(tmp_path / "rows.jsonl", {**ROW, "variant": "é\u2028\ud83d\ude00"[:2]})
    assert read_rows(tmp_path / "rows.jsonl")[0]["variant"] == "é\u2028"
