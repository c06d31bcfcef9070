import json
import re

import pytest

from weightcast_lab.sweeps.rows import append_row, make_row, read_rows


def row(**changes):
    entries = {
        "experiment": "test",
        "variant": "5 % learned",
        "dataset": "digits (5,000 of MNIST)",
        "seed": 3,
        "config": {"plan": None, "training": {"epochs": 2}},
        "counts": {"learned": 38010},
        "metrics": {"test_error": 4.25, "validation_error": None},
    }
    return make_row(**(entries | changes))


def test_rows_come_back_as_they_were_written_and_in_order(tmp_path):
    file = tmp_path / "new" / "folder" / "rows.jsonl"
    rows = [row(seed=seed, variant="ä, 5 %\nlearned") for seed in range(3)]
    for one in rows:
        append_row(file, one)
    assert read_rows(file) == rows
    assert read_rows([file, str(file)]) == rows + rows
    assert len(file.read_bytes().splitlines()) == 3


def test_a_row_names_the_versions_that_made_it():
    assert set(row()["versions"]) == {"weightcast", "torch", "python"}
    assert row()["schema"] == 1


def test_a_write_that_was_cut_short_spoils_its_own_line_only(tmp_path):
    file = tmp_path / "rows.jsonl"
    append_row(file, row(seed=0))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:40])
    append_row(file, row(seed=1))
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 2: no JSON")):
        read_rows(file)
    lines = file.read_bytes().splitlines()
    assert [json.loads(lines[i])["seed"] for i in (0, 2)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: a list, where a row is an object"),
        ("{}", "line 2: schema None, this weightcast reads schema 1"),
        ('{"schema": 2}', "line 2: schema 2, this weightcast reads schema 1"),
        ('{"schema": 1, "seed": 0}', "line 2: the row lacks 'experiment', 'variant'"),
    ],
)
def test_a_line_that_is_no_row_is_named_by_file_and_line(tmp_path, line, message):
    file = tmp_path / "rows.jsonl"
    append_row(file, row())
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{file}, {message}")):
        read_rows(file)


def test_empty_lines_are_skipped(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n\n")
    append_row(file, row())
    assert read_rows(file) == [row()]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the rows in .*none\.jsonl: No such file"):
        read_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="this row cannot be written"):
        append_row(tmp_path / "rows.jsonl", row(metrics={"test_error": value}))
    assert not (tmp_path / "rows.jsonl").exists()
