"""Keys: what they match, and which of them decides."""

from __future__ import annotations

import pytest

from weightcast.plan.keys import check_key, deciding_keys, did_you_mean, is_name, match

LAYERS = ["body.0", "body.1", "lstm.ih_l0", "lstm.hh_l0"]
OWNERS = {"lstm.ih_l0": "lstm", "lstm.hh_l0": "lstm"}


@pytest.mark.parametrize(
    ("key", "layers"),
    [
        ("*", LAYERS),
        ("body.1", ["body.1"]),
        ("lstm", ["lstm.ih_l0", "lstm.hh_l0"]),
        ("lstm.hh_l0", ["lstm.hh_l0"]),
        ("re:body", []),
        (r"re:body\..", ["body.0", "body.1"]),
        ("re:lst.", ["lstm.ih_l0", "lstm.hh_l0"]),
        ("body.*", []),
    ],
)
def test_a_key_matches_by_a_layer_s_own_name_or_that_of_its_module(key, layers):
    assert match([key], LAYERS, OWNERS) == {key: layers}


@pytest.mark.parametrize("turn", [1, -1])
def test_the_more_exact_key_decides_whatever_the_order(turn):
    keys = ["*", r"re:body.*", "lstm", "lstm.hh_l0"][::turn]
    assert deciding_keys(match(keys, [*LAYERS, "head"], OWNERS)) == {
        "body.0": r"re:body.*", "body.1": r"re:body.*", "lstm.ih_l0": "lstm",
        "lstm.hh_l0": "lstm.hh_l0", "head": "*",
    }  # fmt: skip


def test_the_later_of_two_expressions_decides():
    assert deciding_keys(match(["re:b.*", r"re:.*\.0", "c"], LAYERS, {})) == {
        "body.0": r"re:.*\.0", "body.1": "re:b.*",
    }  # fmt: skip


def test_names_are_told_from_expressions():
    assert [is_name(key) for key in ("0", "", "re", "re:0", "*")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_only_names_have_a_nearest_one():
    assert did_you_mean("bdoy.0", LAYERS) == "; did you mean 'body.0'?"
    assert did_you_mean("zzz", LAYERS) == did_you_mean("re:bdoy.0", LAYERS) == ""


@pytest.mark.parametrize(("key", "message"), [(3, "write it as a string"), ("re:(", "invalid")])
def test_what_can_be_no_key_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        check_key(key)
