"""Every base model that the installed transformers knows, tiny and without memory for its weights.

What can be built converts, and what cannot be built is in the table, with the reason.
"""

from __future__ import annotations

import re

import pytest

import weightcast as wc
from weightcast.convert import predicted_layers

pytest.importorskip("transformers")

from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.zoo.tiny import build

RULE = wc.Rule(wc.dictionaries.RandomConnections("grouped"), 0.25)

NOT_BUILT: dict[str, tuple[str, ...]] = {}
"""Types whose config cannot be made tiny without knowing the network, by what is in the way."""

NOT_CONVERTED: dict[str, str] = {}
"""Types that are refused, and what the message says."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("default")  # theirs are not ours
def test_every_type_converts_or_is_in_the_table():
    built, converted = {}, set()
    for name in MODEL_MAPPING_NAMES:
        try:
            built[name] = None
            model = build(name, device="meta")
        except Exception as error:
            built[name] = f"{type(error).__name__}: {error}"
            continue
        _assert_converts(name, model, converted)
    assert len(converted) >= 400
    unexpected = {n: e for n, e in built.items() if e and not _is_expected(n, e)}
    assert not unexpected


def _assert_converts(name, model, converted):
    if name in NOT_CONVERTED:
        with pytest.raises(ValueError, match=NOT_CONVERTED[name]):
            wc.convert(model, {"*": RULE})
        return
    predicted = wc.convert(model, {"*": RULE})
    layers = predicted_layers(predicted)
    explained = wc.Plan({"*": RULE}).explain(model)
    assert {row.layer for row in explained.predicted} == set(layers), name
    assert all(row.reason for row in explained.dense), name
    assert {layer.V.device.type for layer in layers.values()} == {"meta"}, name
    converted.add(name)


def _is_expected(name, message):
    return any(
        re.search(reason, message) and (name in names or names == ("*",))
        for reason, names in NOT_BUILT.items()
    )
