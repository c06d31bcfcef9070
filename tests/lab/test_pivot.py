"""report/pivot.py: cells are what numpy makes of the rows, and what cannot be told is an error."""

import json
import sys

import numpy as np
import pytest

from weightcast_lab.report import pivot

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
        (("--where", "seed=0", "--by", "labels.fraction", "--cells", "x={nothing}"), "has no"),
    ],
)
def test_what_rows_do_not_tell_is_refused(lines, options, message):
    with pytest.raises((ValueError, LookupError), match=message):
        lines(*options)


def test_numbers_of_a_csv_and_several_names(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.csv"
    file.write_text('kind,size,seconds\nb,64,0.5\nb,8,0.25\na,8,\n"c, d",8,1\n')
    options = ["--by", "kind", "size", "--where", "kind=b or c, d", "--cells", "s={seconds:.2f}"]
    monkeypatch.setattr(sys, "argv", ["pivot", str(file), *options])
    pivot.main()
    found = capsys.readouterr().out.splitlines()
    assert found[2:] == ["| b | 8 | 0.25 |", "| b | 64 | 0.50 |", "| c, d | 8 | 1.00 |"]
