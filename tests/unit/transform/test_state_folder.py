"""StateFolder: states of some training; test_pretrain and test_distil go on from real ones."""

from __future__ import annotations

import pytest
import torch

from weightcast.transform.state_folder import StateFolder, digest

CONFIG = {"seed": 0, "initial": {"a": "1", "b": "2"}}


def test_a_state_is_given_back_to_the_same_training(tmp_path):
    states = StateFolder(tmp_path, "pre-training", CONFIG)
    assert states.load(0) is None
    tensors = {"V": torch.arange(6.0).view(2, 3).t(), "step": torch.tensor(3)}
    states.save(0, {"losses": [0.5]}, tensors)
    started = {"seed": 0, "initial": {"a": "trained since", "b": "2"}}
    facts, found = StateFolder(tmp_path, "pre-training", started).load(0)
    assert facts == {"losses": [0.5]}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match=r'another pre-training: initial.b was "2", is now "3"'):
        StateFolder(tmp_path, "pre-training", {"seed": 0, "initial": {"a": "1", "b": "3"}})
    with pytest.raises(ValueError, match=r"but no distillation\.json: choose another folder"):
        StateFolder(tmp_path, "distillation", CONFIG)


def test_a_digest_tells_names_dtypes_shapes_and_values():
    x = torch.arange(6.0)
    different = [[("x", x)], [("y", x)], [("x", x + 1)], [("x", x.view(2, 3))], [("x", x.double())]]
    assert len({digest(values) for values in different}) == len(different)
    assert digest([("x", x.view(2, 3).t().t())]) == digest([("x", x.view(2, 3))])
    assert digest([("x", x.view(2, 3).t())]) != digest([("x", x.view(3, 2))])
