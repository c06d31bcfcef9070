"""swap: a failure that changes nothing, layers that share, and what the copy shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers import view
from weightcast.transform import swap as swap_module
from weightcast.transform.swap import swap

RULE = wc.Rule(d.DCT(), 0.5)


def _predict(name: str, layer: Any, model: nn.Module, twin: Any) -> Any:
    atoms = None if twin is None else twin.atoms
    return view(layer).predict(RULE, atoms=atoms, seed=None if atoms else 0)


def _dense(name: str, layer: Any, model: nn.Module, twin: Any) -> Any:
    return layer.to_dense()


def _network() -> nn.ModuleDict:
    """An LSTM, a layer in two places, and two layers of one weight."""
    shared, head = nn.Linear(8, 8), nn.Linear(8, 8)
    head.weight = shared.weight
    places = nn.Sequential(shared, nn.Sequential(shared), head)
    return nn.ModuleDict({"lstm": nn.LSTM(8, 4), "places": places})


NAMES = ["lstm.ih_l0", "places.0", "lstm.hh_l0", "places.2"]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("last", NAMES)
def test_a_swap_that_fails_changes_nothing(last, inplace, refuses, monkeypatch):
    model, copies = _network(), []

    def fails_at_last(name: str, *others: Any) -> Any:
        if name == last:
            raise ValueError(f"{name} fails")
        return _predict(name, *others)

    def copied(*arguments: Any, **options: Any) -> nn.Module:
        copies.append(original(*arguments, **options))
        return copies[-1]

    original = swap_module.copied
    monkeypatch.setattr(swap_module, "copied", copied)
    with refuses(model, f"{last} fails"):
        swap(model, NAMES, fails_at_last, inplace=inplace)
    assert len(copies) == (not inplace)
    for copy in copies:
        assert [type(m) for m in copy.modules()] == [type(m) for m in model.modules()]
        assert copy["places"][0] is copy["places"][1][0]
        assert copy["places"][0].weight is copy["places"][2].weight


def test_an_interrupt_takes_back_what_was_replaced_twice():
    model = _network()
    modules = list(model.modules())

    def interrupted(name: str, layer: Any, *others: Any) -> Any:
        if name == NAMES[-1]:
            raise KeyboardInterrupt
        make = _dense if isinstance(layer, wc.PredictedLayer) else _predict
        return make(name, layer, *others)

    with pytest.raises(KeyboardInterrupt):
        swap(model, ["places.0", *NAMES], interrupted, inplace=True)
    assert list(model.modules()) == modules


@pytest.mark.parametrize("inplace", [False, True])
def test_twins_share_one_v_and_a_shared_module_is_replaced_everywhere(inplace):
    model = _network()
    lstm, (shared, _, head) = model["lstm"], model["places"]
    new = swap(model, ["places.0", "places.2"], _predict, inplace=inplace)
    assert (new is model) == inplace
    assert (new["lstm"] is lstm) == inplace
    one, inner, two = new["places"]
    assert isinstance(one, wc.PredictedLinear)
    assert one is inner[0]
    assert one.V is two.V
    assert one is not two
    assert (one.bias is shared.bias) == (two.bias is head.bias) == inplace
    assert torch.equal(one.bias, shared.bias)
    back = swap(new, ["places.0", "places.2"], _dense, inplace=inplace)["places"]
    assert back[0] is back[1][0]
    assert back[0].weight is back[2].weight
    torch.testing.assert_close(back[0].weight, one.weight)
    assert (back[0].bias is shared.bias) == inplace


def test_a_split_module_is_joined_when_its_last_layer_is_dense_again():
    model = _network()
    biases = [model["lstm"].bias_ih_l0, model["lstm"].bias_hh_l0]
    x = torch.randn(5, 2, 8)
    model = swap(model, ["lstm.ih_l0", "lstm.hh_l0"], _predict, inplace=True)
    outputs = model["lstm"](x)[0]
    model = swap(model, ["lstm.hh_l0"], _dense, inplace=True)
    assert isinstance(model["lstm"], wc.PredictedRecurrent)
    model = swap(model, ["lstm.ih_l0"], _dense, inplace=True)
    assert type(model["lstm"]) is nn.LSTM
    assert list(model["lstm"].state_dict()) == list(nn.LSTM(8, 4).state_dict())
    assert biases == [model["lstm"].bias_ih_l0, model["lstm"].bias_hh_l0]
    torch.testing.assert_close(model["lstm"](x)[0], outputs)


@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.LSTM(8, 4)])
def test_a_single_layer_cannot_be_replaced_in_place(layer, refuses):
    name = "" if isinstance(layer, nn.Linear) else "ih_l0"
    with refuses(layer, "the model is itself a single layer", "inplace=False"):
        swap(layer, [name], _predict, inplace=True)
    assert swap(layer, [], _predict, inplace=True) is layer
    new = swap(layer, [name], _predict)
    assert isinstance(new.get_submodule(name), wc.PredictedLayer)
    with refuses(new, "the model is itself a single layer"):
        swap(new, [name], _dense, inplace=True)


def test_the_copy_shares_the_weights_that_are_replaced_until_they_are():
    model = _network()
    lstm, (shared, _, head) = model["lstm"], model["places"]
    weights = [lstm.weight_ih_l0, shared.weight, lstm.weight_hh_l0, head.weight]
    met = []

    def records(name: str, layer: Any, current: nn.Module, twin: Any) -> Any:
        assert current is not model
        met.append(layer.weight)
        return _predict(name, layer, current, twin)

    new = swap(model, NAMES, records)
    assert [id(weight) for weight in met] == [id(weight) for weight in weights]
    assert not {id(p) for p in new.parameters()} & {id(p) for p in model.parameters()}
