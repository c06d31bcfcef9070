"""Every name that our rows and the library use has a sentence; names are taken apart rightly."""

import json
from pathlib import Path

import pytest

import weightcast.dictionaries as dictionaries
from weightcast.dictionaries import Dictionary
from weightcast_lab.report.glossary import sentences, terms
from weightcast_lab.sweeps.curves import all_curves, variations

RESULTS = Path(__file__).parents[2] / "results"
DESCRIBED = {"demo", "mnist", "fig1"}  # their rows, or their pages, tell what each network is


def names_in_results():
    for file in sorted(RESULTS.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row["experiment"] not in DESCRIBED:
                yield (row.get("labels") or {}).get("curve") or row["variant"]


def test_every_curve_has_a_sentence():
    names = {*all_curves(), *variations(), *names_in_results()}
    assert len(names) > 100
    assert [name for name in sorted(names) if not terms([name])] == []


def test_every_dictionary_has_a_sentence():
    found = [getattr(dictionaries, name) for name in dictionaries.__all__]
    classes = [x for x in found if isinstance(x, type) and issubclass(x, Dictionary)]
    names = [x.__name__ for x in classes if not getattr(x, "__abstractmethods__", None)]
    assert len(names) >= 14
    assert [name for name in names if terms([name]) != [name]] == []


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SE-Emp2", ["SE", "Emp2"]),
        ("SE-Emp, 1 px", ["SE", "Emp", "1 px"]),
        ("random half", ["random half"]),
        ("informed after 10%", ["informed after"]),
        ("narrow dense", ["narrow dense"]),
        ("784-500, batch 1, se, 5 %, auto", ["SE", "auto"]),
        ("5 % learned, no windows", ["% learned", "no windows"]),
        ("squeeze", []),
    ],
)
def test_a_name_is_taken_apart(name, parts):
    assert terms([name]) == parts


def test_only_what_occurs_is_explained():
    text = sentences(["SE-Emp", "dense"])
    assert text.count("<dt>") == 3
    assert "Of a name in two parts" in text
    assert "Of a name" not in sentences(["dense", "cp-reconstructed", "low-rank"])
    assert sentences(["a name of your own"]) == ""
