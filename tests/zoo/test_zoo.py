"""Random networks of every family: compressed whole they stay the same; in part, they learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast.layers import predicted_layers
from weightcast.plan.eligibility import convertible_layers

pytest.importorskip("transformers")

from tests.zoo.families import FAMILIES
from tests.zoo.tiny import build, example_inputs, plan_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours
]

NAMES = [(family, name) for family, names in FAMILIES.items() for name in names]
WHOLE = wc.Rule(wc.dictionaries.RandomGaussian("orthonormal"), 1.0)
QUARTER = wc.Rule(wc.dictionaries.RandomGaussian("orthonormal"), 0.25)


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All floating-point tensors that a model returns."""
    return list(_tensors(model(**inputs)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for one, two in zip(found, expected, strict=True):
        scale = float(two.detach().abs().max())
        assert float((one - two).detach().abs().max()) <= 1e-4 * max(scale, 1e-6)


def test_the_zoo_is_as_large_as_it_says():
    assert len({name for _, name in NAMES}) == len(NAMES) >= 60
    assert min(map(len, FAMILIES.values())) >= 3


@pytest.mark.parametrize(("family", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_network(family, name):
    model = build(name)
    inputs = example_inputs(model)
    with torch.no_grad():
        expected = outputs(model, inputs)

        # With all atoms, a compressed network is the network.
        plan = plan_of(model, WHOLE)
        whole = wc.compress(model, plan, progress=False)
        assert_close(outputs(whole, inputs), expected)
        rows = wc.compression_report(model, whole, inputs).rows
        assert [row.layer for row in rows] == [*predicted_layers(whole), "model"]
        assert all(row.weight_error < 1e-6 for row in rows[:-1])

    # Nothing stays dense in silence.
    explained = plan.explain(model)
    assert {row.layer for row in explained.predicted} == set(predicted_layers(whole))
    for row in explained.dense:
        assert row.reason, f"{row.layer} stays dense, and nobody says why"
    _assert_every_weight_is_listed(model, explained)

    # Where a dense weight gets a gradient, a quarter of it does.
    quarter = wc.compress(model, plan_of(model, QUARTER), progress=False)
    for network in (model, quarter):
        sum(y.square().mean() for y in outputs(network, inputs)).backward()
    V = {name: layer.V for name, layer in predicted_layers(quarter).items()}
    dense: Any = convertible_layers(model)
    learning = {name for name in V if _has_gradient(dense[name].weight)}
    assert len(learning) > len(V) / 2
    assert {name for name in V if _has_gradient(V[name])} == learning
    merged = wc.merge(quarter)
    assert type(merged) is type(model)
    assert merged.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert_close(outputs(merged, inputs), outputs(quarter, inputs))


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and float(parameter.grad.abs().sum()) > 0


def _assert_every_weight_is_listed(model: nn.Module, explained: Any) -> None:
    """Each parameter belongs to a listed module, or to one inside it."""
    listed = {row.layer for row in explained.rows}
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            parents = [name[:i] for i, c in enumerate(name) if c == "."] + [name]
            parts = any(row.startswith(f"{name}.") for row in listed)
            assert parts or listed.intersection(parents), f"{name} is listed nowhere"
