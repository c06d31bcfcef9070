"""Rule and Plan: precedence, JSON and refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import weightcast as wc
from tests.contract.table import DICTIONARIES, make_dictionary
from weightcast import dictionaries as d

RULE = wc.Rule(d.DCT(), 0.5)


def _rule(fraction: float) -> wc.Rule:
    return wc.Rule(d.DCT(), fraction)


def _model() -> nn.Module:
    return nn.ModuleDict(
        {
            "blocks": nn.ModuleList(
                nn.ModuleDict({"up": nn.Linear(8, 9), "down": nn.Linear(9, 8)}) for _ in range(3)
            ),
            "norm": nn.LayerNorm(8),
            "head": nn.Linear(8, 5),
        }
    )


def test_exact_names_beat_expressions_beat_the_star():
    plan = wc.Plan(
        {
            "blocks.0.up": _rule(0.1),
            "re:blocks\\..*": _rule(0.2),
            "re:.*\\.down": _rule(0.3),
            "*": _rule(0.4),
            "blocks.2.down": None,
        }
    )
    fractions = {name: rule.fraction for name, rule in plan.resolve(_model()).items()}
    assert fractions == {
        "blocks.0.up": 0.1,
        "blocks.0.down": 0.3,  # the later expression
        "blocks.1.up": 0.2,
        "blocks.1.down": 0.3,
        "blocks.2.up": 0.2,
        "head": 0.4,
    }


def test_order_matters_among_expressions_only():
    early = {"re:.*": _rule(0.2), "re:head": None, "*": _rule(0.4), "blocks.0.up": None}
    late = {"blocks.0.up": None, "*": _rule(0.4), "re:.*": _rule(0.2), "re:head": None}
    model = _model()
    assert wc.Plan(early).resolve(model) == wc.Plan(late).resolve(model)
    turned = wc.Plan({"re:head": None, "re:.*": _rule(0.2)})
    assert turned.resolve(model)["head"].fraction == 0.2


def test_an_expression_matches_the_full_name():
    names = set(wc.Plan({"re:blocks\\.\\d\\.up": RULE}).resolve(_model()))
    assert names == {"blocks.0.up", "blocks.1.up", "blocks.2.up"}
    with pytest.raises(ValueError, match=r"'re:up' matches no layer; layers that can be predicted"):
        wc.Plan({"re:up": RULE}).resolve(_model())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("haed", r"'haed' matches no layer; did you mean 'head'\?.*blocks.0.up"),
        ("block.0.up", r"did you mean 'blocks.0.up'"),
        ("norm", r"'norm' names a LayerNorm, which cannot be predicted.*blocks.0.up"),
        ("blocks", r"'blocks' names a ModuleList"),
        ("re:heads", r"'re:heads' matches no layer.*'head'"),
        ("zzz", r"'zzz' matches no layer; layers that can be predicted: 'blocks.0.up'"),
    ],
)
@pytest.mark.parametrize("value", [RULE, None])
def test_a_key_that_matches_nothing_names_what_it_could_have_meant(key, value, message, refuses):
    model = _model()
    with refuses(model, message):
        wc.convert(model, {"*": RULE, key: value}, inplace=True)


def test_a_star_that_matches_nothing():
    empty = nn.Sequential(nn.ReLU())
    assert wc.Plan({"*": None}).resolve(empty) == {}
    with pytest.raises(ValueError, match=r"no layer of type Linear, Conv1d, Conv2d, Conv3d"):
        wc.Plan({"*": RULE}).resolve(empty)


def test_an_invalid_expression_is_refused():
    with pytest.raises(ValueError, match=r"rule 're:\(': invalid expression"):
        wc.Plan({"re:(": RULE})


@pytest.mark.parametrize("value", [0.5, d.DCT(), "DCT", {"fraction": 0.5}])
def test_a_rule_is_a_rule(value):
    with pytest.raises(ValueError, match=r"rule '0' is .*expected a weightcast.Rule or None"):
        wc.Plan({"0": value})


def test_subclasses_are_left_alone():
    class Special(nn.Linear):
        pass

    model = nn.Sequential(Special(8, 8), nn.Linear(8, 8))
    assert set(wc.Plan({"*": RULE}).resolve(model)) == {"1"}
    with pytest.raises(ValueError, match="'0' names a Special, which cannot be predicted"):
        wc.Plan({"0": RULE}).resolve(model)


def test_a_plan_keeps_its_own_copy_of_the_rules():
    rules = {"0": RULE}
    plan = wc.Plan(rules)
    rules["1"] = RULE
    assert set(plan.rules) == {"0"}


DESIGNED = {
    "version": 1,
    "rules": {
        "hidden1": {
            "dictionary": {
                "kind": "Kernel",
                "kernel": {"kind": "SquaredExponential", "length_scale": 2.0},
            },
            "fraction": 0.05,
            "columns": 20,
            "grid": {"shape": [28, 28]},
        },
        "*": None,
    },
}


def test_the_documented_json_form():
    plan = wc.Plan.from_dict(DESIGNED)
    kernel = wc.kernels.SquaredExponential(length_scale=2.0)
    rule = wc.Rule(d.Kernel(kernel), fraction=0.05, columns=20, grid=(28, 28))
    assert plan == wc.Plan({"hidden1": rule, "*": None})
    data = json.loads(json.dumps(DESIGNED))
    data["rules"]["hidden1"]["grid"] = [28, 28]
    assert wc.Plan.from_dict(data) == plan
    data["rules"]["hidden1"]["grid"] = 784
    assert wc.Plan.from_dict(data).rules["hidden1"].grid == wc.Grid((784,))
    assert wc.Plan.from_dict({"rules": {}}) == wc.Plan({})
    assert plan.to_dict()["version"] == 1


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=4),
    kind=st.sampled_from([n for n, row in DICTIONARIES.items() if row.has_json]),
    fraction=st.floats(0, 1, exclude_min=True),
    columns=st.integers(1, 100),
    grid=st.none() | st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    path=st.sampled_from(["auto", "factored", "materialised"]),
)
def test_every_plan_survives_json(names, kind, fraction, columns, grid, path):
    rule = wc.Rule(make_dictionary(kind, 4), fraction, columns, grid, path)
    rules = {name: rule for name in names if not name.startswith("re:")}
    plan = wc.Plan({**rules, "re:.*x": None, "*": rule})
    again = wc.Plan.from_json(plan.to_json())
    assert again == plan
    assert list(again.rules) == list(plan.rules)


def _changed(**changes):
    return {"rules": {"0": {"dictionary": {"kind": "DCT"}, "fraction": 0.5, **changes}}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rule": {}}, "plan: unknown field 'rule'; did you mean 'rules'?"),
        ({"rules": {}, "version": 2}, "plan: version 2, this weightcast reads version 1"),
        ({}, "'rules' must map layer names to rules"),
        ({"rules": []}, "'rules' must map layer names to rules"),
        (_changed(fracton=1), "rule '0': Rule has no field 'fracton'; did you mean 'fraction'?"),
        (_changed(collumns=2), "did you mean 'columns'?"),
        (_changed(fraction=5), "rule '0': fraction is 5"),
        (_changed(fraction="5 %"), "field 'fraction': expected float, got '5 %'"),
        (_changed(fraction=None), "fraction"),
        (_changed(columns=0), "columns is 0"),
        (_changed(columns=2.5), "field 'columns': expected int, got 2.5"),
        (_changed(grid=[0]), "must be at least 1"),
        (_changed(grid={"shape": [28], "chanels": 1}), "did you mean 'channels'?"),
        (_changed(path="fast"), "'fast' is none of 'auto', 'factored', 'materialised'"),
        (_changed(dictionary={"kind": "DTC"}), "there is no Dictionary 'DTC'; did you mean 'DCT'?"),
        (_changed(dictionary={"kind": "DCT", "selecton": "x"}), "did you mean 'selection'?"),
        (_changed(dictionary={"kind": "DCT", "selection": "low"}), "'low' is none of"),
        (_changed(dictionary={}), "add 'kind', one of .*Autoencoder, .*Covariance"),
        (_changed(dictionary="DCT"), "'DCT'"),
        ({"rules": {"0": {"fraction": 0.5}}}, "Rule needs 'dictionary'"),
        ({"rules": {"0": [1]}}, "rule '0': expected a mapping"),
        ({"rules": {"re:(": None}}, "invalid expression"),
    ],
)
def test_mistakes_in_json_are_named(data, message):
    pattern = message.replace("?", r"\?").replace("(", r"\(")
    with pytest.raises(ValueError, match=pattern):
        wc.Plan.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[1]"])
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message will do for bad JSON
        wc.Plan.from_json(text)


def test_equal_rules_are_equal():
    assert wc.Rule(d.DCT(), 0.5, grid=[2, 3]) == wc.Rule(d.DCT(), 0.5, grid=wc.Grid((2, 3)))
    assert wc.Rule(d.DCT(), 0.5) != wc.Rule(d.Fourier(), 0.5)
    assert hash(wc.Rule(d.Kernel(), 0.5)) == hash(wc.Rule(d.Kernel(), 0.5))
