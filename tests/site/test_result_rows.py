"""docs/_ext/result_rows.py: cells are computed from rows, and what cannot be told is an error."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed: make docs")
FILE = Path(__file__).parents[2] / "docs" / "_ext" / "result_rows.py"


@pytest.fixture(scope="module")
def result_rows():
    spec = importlib.util.spec_from_file_location("result_rows", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cell_is_the_mean_and_spread_of_its_rows(result_rows):
    rows = result_rows.select(
        result_rows.read_rows("mnist.jsonl"), result_rows.parse_pairs("variant=5 % learned")
    )
    errors = [row["metrics"]["test_error"] for row in rows]
    mean, shown = result_rows.cell(rows, "metrics.test_error")
    assert mean == statistics.fmean(errors)
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == "1.02 ± 0.05"
    assert result_rows.cell(rows, "counts.learned")[1] == "38,010"


def test_a_condition_without_rows_is_refused(result_rows):
    rows = result_rows.read_rows("mnist.jsonl")
    with pytest.raises(ValueError, match="no row has"):
        result_rows.select(rows, [("variant", "6 % learned")])


def test_rows_that_a_condition_does_not_tell_apart_are_refused(result_rows):
    rows = result_rows.read_rows("mnist.jsonl")
    with pytest.raises(ValueError, match="one number for each is needed"):
        result_rows.cell(rows, "metrics.test_error")
    with pytest.raises(ValueError, match="one number for each is needed"):
        result_rows.cell(rows[:1], "metrics.validation_loss")


def test_fractions_and_labels_are_compared_as_they_are_written(result_rows):
    rows = result_rows.read_rows("fig4.jsonl")
    pairs = result_rows.parse_pairs(
        "labels.curve=SE-Emp, 1 px; labels.fraction=0.05; labels.pretrained=false"
    )
    kept = result_rows.select(rows, pairs)
    assert {row["labels"]["fraction"] for row in kept} == {0.05}
    assert result_rows.heading("labels.fraction", 0.05) == "5 %"
