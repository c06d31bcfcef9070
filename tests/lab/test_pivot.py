"""report/pivot.py: cells are what numpy makes of the rows, and what cannot be told is an error."""

import json
import sys

import numpy as np
import pytest

from weightcast_lab.report import pivot
from weightcast_lab.sweeps.chosen_rows import read_any

ERRORS = {"dense": {1.0: [2.0, 3.0]}, "ours, 1 px": {0.05: [2.5, 3.7], 0.1: [2.25, 2.0]}}
ROWS = [
    {"schema": 1, "variant": curve, "seed": seed, "labels": {"curve": curve, "fraction": share}}
    | {"counts": {"learned": 1234}, "metrics": {"test_error": error, "r2_at_0.1": 0.25}}
    for curve, shares in ERRORS.items()
    for share, errors in shares.items()
    for seed, error in enumerate(errors)
]
STYLE = "{metrics.test_error:.2f}[ ({above.metrics.test_error:.2f})]"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


@pytest.fixture
def lines(file, monkeypatch, capsys):
    def of(*options):
        monkeypatch.setattr(sys, "argv", ["pivot", str(file), *options])
        pivot.main()
        return capsys.readouterr().out.splitlines()

    return of


def test_a_cell_is_mean_and_spread_of_its_rows_and_of_paired_differences(lines):
    found = lines(
        "--by", "labels.curve", "--across", "labels.fraction", "--cells", STYLE, "--against",
        "labels.curve=dense",
    )  # fmt: skip
    ours, above = np.array([2.5, 3.7]), np.array([0.5, 0.7])
    shown = [f"{x.mean():.2f} ± {x.std(ddof=1):.2f}" for x in (ours, above)]
    assert found[0] == "| curve | 5 % | 10 % | 100 % |"
    assert found[2] == "| dense |  |  | 2.50 ± 0.71 |"
    assert found[3].startswith(f"| ours, 1 px | {shown[0]} ({shown[1]}) | 2.12 ± 0.18 (-0.38 ±")


def test_lines_are_chosen_named_and_ordered(lines):
    chosen = ["ours | labels.curve=ours, 1 px; labels.fraction=0.05 or 7", "dense"]
    cells = ["n={counts.learned:,}", "r2, %={metrics.r2_at_0.1!P:.0f}"]
    found = lines("--lines", *chosen, "--cells", *cells, "lone={metrics.test_error!d} | seed=1")
    assert found[0] == "| variant | n | r2, % | lone |"
    assert found[2:] == ["| ours | 1,234 | 25 | 3.7 |", "| dense | 1,234 | 25 | 3.0 |"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--where", "labels.curve=theirs"), "no row has"),
        (("--by", "labels.curve"), r"the seeds \[0, 1, 0, 1\]: narrow --where"),
        (("--against", "labels.curve=ours, 1 px"), "4 rows of fewer seeds"),
        (
            (
                "--where",
                "labels.fraction=1 or 0.05",
                "--cells",
                "x={of.seed:.2f}",
                "--against",
                "labels.curve=dense; seed=0",
            ),
            "no other row of the same seed",
        ),
        (("--where", "seed=0", "--by", "labels.fraction", "--cells", "x={nothing}"), "has no"),
    ],
)
def test_what_rows_do_not_tell_is_refused(lines, options, message):
    with pytest.raises(ValueError, match=message):
        lines(*options)


def test_numbers_of_a_csv_and_several_names(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.csv"
    file.write_text('kind,size,seconds\nb,64,0.5\nb,8,0.25\na,8,\n"c, d",8,1\n')
    options = ["--by", "kind", "size", "--where", "kind=b or c, d", "--cells", "s={seconds:.2f}"]
    monkeypatch.setattr(sys, "argv", ["pivot", str(file), *options])
    pivot.main()
    found = capsys.readouterr().out.splitlines()
    assert found[2:] == ["| b | 8 | 0.25 |", "| b | 64 | 0.50 |", "| c, d | 8 | 1.00 |"]


def test_ratios_and_tables_turned_round(lines):
    found = lines(
        "--where", "labels.fraction=1 or 0.05", "--against", "labels.curve=dense", "--transpose",
        "--cells", "of dense={of.metrics.test_error:.2f}", "seeds={seed!s}",
    )  # fmt: skip
    ratios = np.array([2.5 / 2.0, 3.7 / 3.0])
    shown = f"{ratios.mean():.2f} ± {ratios.std(ddof=1):.2f}"
    assert found[0] == "| variant | dense | ours, 1 px |"
    assert found[2:] == [f"| of dense | 1.00 ± 0.00 | {shown} |", "| seeds | 0 or 1 | 0 or 1 |"]


def test_a_csv_of_metrics_and_values_is_read_as_rows(tmp_path):
    file = tmp_path / "long.csv"
    file.write_text("name,metric,value\na,low,1\na,high,2.5\nb,low,3\n")
    assert read_any(file) == [{"name": "a", "low": 1, "high": 2.5}, {"name": "b", "low": 3}]
