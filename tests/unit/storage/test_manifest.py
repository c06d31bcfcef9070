"""The manifest there and back, and texts that are none."""

from __future__ import annotations

import json
import re

import pytest

import weightcast as wc
from tests.saved_folders import assert_refused, edit_facts, make_dense
from weightcast.storage.manifest import max_bytes, read_manifest, write_manifest


def test_a_manifest_is_read_as_it_was_written(folder):
    text = (folder / "weightcast.json").read_bytes()
    manifest = read_manifest(text)
    assert write_manifest(manifest) == text
    assert manifest.layers.keys() == manifest.plan.rules.keys() == {"0", "2"}
    assert manifest.layers["0"].layer == "PredictedLinear"
    assert len(text) <= max_bytes(manifest.tensors)


def test_a_plan_is_for_the_layers(folder):
    manifest = read_manifest((folder / "weightcast.json").read_bytes())
    fields = {name: getattr(manifest, name) for name in manifest.to_dict() if name != "kind"}
    with pytest.raises(ValueError, match=r"plan and layers differ in \['2'\]"):
        type(manifest)(**fields | {"layers": {"0": manifest.layers["0"]}})


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00\x01", "NaN", '{"a": 1, "a": 2}'])
def test_damaged_json(folder, text):
    (folder / "weightcast.json").write_text(text)
    assert_refused(folder, "is damaged: weightcast.json")


def test_json_that_is_nested_without_end(folder):
    (folder / "weightcast.json").write_text("[" * 30_000)
    assert_refused(folder, "is damaged: weightcast.json")


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"schema": "2"}', '{"schema": 1}'])
def test_another_schema(folder, text):
    (folder / "weightcast.json").write_text(text)
    assert_refused(folder, "has schema .*, this version of weightcast reads schema 2$")


def test_a_newer_schema_is_named(folder):
    edit_facts(folder, lambda facts: facts.update(schema=3, anything=[]))
    assert_refused(folder, "has schema 3, .* reads schema 2: a newer weightcast wrote it")


def test_the_layout_of_the_json_does_not_matter(folder):
    facts = json.loads((folder / "weightcast.json").read_text())
    (folder / "weightcast.json").write_text(json.dumps(facts, indent=7))
    wc.load(folder, make_dense())


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("place", ["ridge", "size"])
def test_numbers_that_are_not_finite(folder, number, place):
    text = (folder / "weightcast.json").read_text()
    (folder / "weightcast.json").write_text(
        re.sub(rf'("{place}": )[^,\n]*', rf"\g<1>{number}", text)
    )
    assert_refused(folder, f"is damaged: weightcast.json: {number} is no")
