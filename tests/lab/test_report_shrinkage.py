"""Rows of weightcast shrink, made by the command from a network trained on real digits."""

import copy
import json
import sys
import xml.etree.ElementTree as ET

import pytest

from weightcast.cli.main import main
from weightcast_lab import report
from weightcast_lab.report import document, shrinkage
from weightcast_lab.report.figures import make_figures
from weightcast_lab.report.results import located
from weightcast_lab.report.theme import COLOURS, NEUTRAL

MODULE = """
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
x = torch.as_tensor(digits.data / 16, dtype=torch.float32)
y = torch.as_tensor(digits.target)

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[:1000]), y[:1000]).backward()
        optimiser.step()
    return net

def batches():
    return list(x[:1000].split(250))

def accuracy(net):
    with torch.no_grad():
        return 100 * float((net(x[1000:]).argmax(1) == y[1000:]).float().mean())

def error(net):
    return 100 - accuracy(net)
"""


@pytest.fixture(autouse=True)
def _short_bundle(monkeypatch):
    """The real Vega takes a second to bundle; the browser's tests load it."""
    monkeypatch.setattr(document.vl_convert, "javascript_bundle", lambda snippet: "vegaEmbed = f")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same search by an error and by an accuracy."""
    place, found = tmp_path_factory.mktemp("shrunk"), {}
    (place / "shrunk_digits.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        for metric, more in (("error", []), ("accuracy", ["--higher-is-better"])):
            rows = place / f"{metric}.jsonl"
            assert main([
                "shrink", "shrunk_digits:make", "--allow-import", "--inputs",
                "shrunk_digits:batches", "--evaluate", f"shrunk_digits:{metric}", "--tolerance",
                "2", "--evaluations", "5", "--output", str(place / metric), "--rows", str(rows),
                *more,
            ]) == 0  # fmt: skip
            found[metric] = json.loads(rows.read_text())
        sys.modules.pop("shrunk_digits")
    return found


@pytest.fixture(params=["error", "accuracy"])
def row(made, request):
    return copy.deepcopy(made[request.param])


def result(row):
    return located([row])[0]


def smallest_good(row):
    return min((t for t in row["shrink"]["trials"][1:] if t["holds"]), key=lambda t: t["stored"])


def test_the_level_lies_between_what_holds_and_what_does_not(row):
    worst = shrinkage.limit(result(row))
    dense, *tried = row["shrink"]["trials"]
    sign = -1 if row["shrink"]["higher_is_better"] else 1
    assert sign * (worst - dense["metric"]) == pytest.approx(2)
    assert {trial["holds"] for trial in tried} == {True, False}
    for trial in tried:
        assert (sign * (trial["metric"] - worst) <= 1e-9) == trial["holds"]


def test_the_table_has_every_trial_smallest_first_and_names_the_chosen(row):
    head, body = shrinkage.table(result(row))
    lines = [dict(zip(head, cells, strict=True)) for cells in body]
    trials = sorted(row["shrink"]["trials"], key=lambda trial: trial["stored"])
    assert [line["stored"] for line in lines] == [f"{trial['stored']:,}" for trial in trials]
    assert [line["metric"] for line in lines] == [f"{trial['metric']:.6g}" for trial in trials]
    assert [line["good enough"] for line in lines] == [
        "yes" if trial["holds"] else "no" for trial in trials
    ]
    assert lines[-1]["network"] == "dense"
    (chosen,) = [line for line in lines if line["network"] == "chosen"]
    assert chosen["stored"] == f"{smallest_good(row)['stored']:,}" == f"{row['counts']['stored']:,}"
    text = report.tables([row])
    assert text.startswith("How small the network can be: shrunk_digits:make, tolerance 2, seed 0")
    assert all(cell in text for cell in body[0])


def test_the_sentence_says_what_was_chosen_and_what_was_allowed(row):
    dense, chosen = row["shrink"]["trials"][0], smallest_good(row)
    said = shrinkage.summary(result(row))
    bound = "at least" if row["shrink"]["higher_is_better"] else "at most"
    assert f"{100 * chosen['share']:.3g} % of the numbers ({chosen['stored']:,} of " in said
    assert f"has {dense['metric']:.6g}, and {bound} {shrinkage.limit(result(row)):.6g} is" in said
    for trial in row["shrink"]["trials"][1:]:
        trial["holds"] = False
    assert "None of the networks tried is good enough" in shrinkage.summary(result(row))


def test_the_picture_tells_apart_by_shape_and_colour(row, tmp_path):
    page = report.write_report([row], tmp_path)
    svg = ET.parse(tmp_path / "shrink-shrunk-digits-make.svg").getroot()
    assert (tmp_path / "shrink-shrunk-digits-make.png").read_bytes()[:4] == b"\x89PNG"
    marks = [
        [(path.get("d"), path.get("fill")) for path in group]
        for group in svg.iter()
        if "mark-symbol role-mark" in group.get("class", "")
    ]
    symbols = next(group for group in marks if len(group) > 1)
    (ring,) = next(group for group in marks if len(group) == 1)
    holds = [trial["holds"] for trial in row["shrink"]["trials"][1:]]
    colours = [fill for _, fill in symbols]
    assert colours.count(NEUTRAL) == 1
    assert colours.count(COLOURS[1]) == sum(holds)
    assert colours.count(COLOURS[0]) == len(holds) - sum(holds)
    assert len(set(symbols)) == len({shape for shape, _ in symbols}) == 3
    assert ring[1] in (None, "none", "transparent")
    text = [element.text for element in svg.iter() if element.text]
    for word in ("tolerance", "chosen", "dense", "good enough", "not good enough", "metric"):
        assert word in text
    assert "How to read it: a symbol is one network" in page.read_text()


def test_a_metric_that_is_no_number_is_named_and_not_drawn(row):
    bad = next(trial for trial in row["shrink"]["trials"] if not trial["holds"])
    bad["metric"] = None
    share = f"{100 * bad['share']:.3g} %"
    assert f"Not drawn, without a finite metric: {share}." in shrinkage.summary(result(row))
    assert "no number" in {cell for line in shrinkage.table(result(row))[1] for cell in line}
    symbols = [layer for layer in shrinkage.chart(result(row))["layer"] if "shape" in str(layer)]
    drawn = symbols[0]["data"]["values"]
    assert len(drawn) == len(row["shrink"]["trials"]) - 1


def test_searches_of_several_tolerances_stand_apart(made):
    rows = [copy.deepcopy(made["error"]) for _ in range(2)]
    rows[1]["labels"] = {"note": "again"}
    figures = make_figures(located(rows))
    assert [figure.name for figure in figures] == [
        "shrink-shrunk-digits-make",
        "shrink-shrunk-digits-make-2",
    ]
    assert len({figure.title for figure in figures}) == 2


DEAD = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("tolerance",), DEAD, "row 1 has no 'shrink.tolerance'"),
        (("tolerance",), "much", "row 1: shrink.tolerance is 'much', not a finite number"),
        (("tolerance",), -1, "row 1: shrink.tolerance is -1, not 0 or more"),
        (("higher_is_better",), DEAD, "row 1 has no 'shrink.higher_is_better'"),
        (("higher_is_better",), 1, "shrink.higher_is_better is 1, not true or false"),
        (("trials",), DEAD, "row 1 has no 'shrink.trials'"),
        (("trials",), {}, "trials is not a list of the dense network and others"),
        (("trials",), [], "trials is not a list of the dense network and others"),
        (("trials", 0, "share"), 0.9, "trial 1 is not the dense network, of share 1"),
        (("trials", 1), 3, "the entry 'shrink', trial 2 has no 'holds'"),
        (("trials", 1, "holds"), "yes", "trial 2: holds is 'yes', not true or false"),
        (("trials", 1, "stored"), DEAD, "trial 2 has no 'stored'"),
        (("trials", 1, "share"), 0, "trial 2: share is 0, not above 0"),
        (("trials", 1, "budget"), True, "trial 2: budget is True, not a finite number"),
        (("trials", 1, "seconds"), float("inf"), "seconds is inf, not a finite number"),
        (("trials", 0, "metric"), None, "trial 1: metric is None, not a finite number"),
    ],
)
def test_a_malformed_row_is_refused_before_anything_is_written(
    made, tmp_path, path, value, message
):
    row = copy.deepcopy(made["error"])
    place = row["shrink"]
    for key in path[:-1]:
        place = place[key]
    if value is DEAD:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    for act in (lambda: report.tables([row]), lambda: report.write_report([row], tmp_path / "new")):
        with pytest.raises(ValueError, match=r"^row 1") as caught:
            act()
        assert message in str(caught.value)
    assert not (tmp_path / "new").exists()
