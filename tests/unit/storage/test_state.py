"""What of a model's state is saved: each tensor once, indices in few bytes, bases where needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers import predicted_layers
from weightcast.storage.state import check_state, saved_tensors, untied, without_atoms


def model(dictionary: d.Dictionary) -> nn.Module:
    dense = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5))
    return wc.convert(dense, {"0": wc.Rule(dictionary, 0.25, columns=2, grid=(3, 4)), "*": None})


def keys(network: nn.Module, *, store: bool) -> set[str]:
    tensors, _ = saved_tensors(network, predicted_layers(network), store=store)
    return {key for key in tensors if "atoms" in key}


def test_bases_are_saved_where_they_cannot_be_rebuilt_or_are_asked_for():
    kernel, gaussian = model(d.Kernel()), model(d.RandomGaussian())
    indices, mask = {"0.atoms.indices"}, {"0.atoms.mask"}  # three atoms of twelve, in order
    factors = {"0.atoms.base.factor_0", "0.atoms.base.factor_1", "0.atoms.mixing"}
    assert keys(kernel, store=False) == indices
    assert keys(kernel, store=True) == indices | factors
    assert keys(gaussian, store=False) == mask | {"0.atoms.base.atoms"}


def test_all_else_is_saved_as_it_is():
    network = model(d.Kernel())
    tensors, _ = saved_tensors(network, predicted_layers(network), store=False)
    others = {name: t for name, t in tensors.items() if "atoms" not in name}
    assert others.keys() == {"0.V", "0.bias"} | {f"1.{key}" for key in network[1].state_dict()}
    assert torch.equal(others["0.V"], network[0].V)
    assert without_atoms(network, network.state_dict()).keys() == others.keys()


def test_a_single_layers_atoms_are_left_out_too():
    layer = model(d.Kernel())[0]
    assert without_atoms(layer, layer.state_dict()).keys() == {"V", "bias"}


def test_indices_take_few_bytes():
    network = model(d.Kernel())
    tensors, _ = saved_tensors(network, predicted_layers(network), store=False)
    assert tensors["0.atoms.indices"].dtype == torch.uint8
    assert torch.equal(tensors["0.atoms.indices"].long(), network[0].atoms.indices)


def test_the_same_tensor_is_saved_once_and_an_equal_one_twice():
    weight = torch.randn(3, 4)
    state = {"a": weight, "b": weight, "c": weight.clone(), "d": weight[:2], "e": weight.t()}
    tensors, ties = untied(state)
    assert list(tensors) == ["a", "c", "d", "e"]
    assert ties == {"b": "a"}
    empty = torch.empty(0)
    assert untied({"a": empty, "b": empty})[1] == {}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"a.note": "text"},
            r"'a\.note' in the model's state is a str, and only tensors are saved",
        ),
        ({"a._extra_state": torch.ones(1)}, r"'a\._extra_state' is a module's extra state"),
        (nn.LazyLinear(3).state_dict(), "'weight' has no shape yet: call the model once"),
    ],
)
def test_what_the_files_cannot_hold_is_refused_by_name(state, message):
    with pytest.raises(ValueError, match=message):
        check_state(state)
