"""Layers are rebuilt from what a file holds only if all of it fits together."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import weightcast as wc
from tests.contract.table import make_dictionary
from tests.saved_folders import (
    X,
    assert_refused,
    edit_facts,
    edit_tensors,
    make_dense,
    make_model,
    save_quietly,
)


def test_a_rebuilt_layer_is_the_saved_one(folder):
    layer, saved = wc.load(folder, make_dense())[0], make_model()[0]
    assert layer.rule == saved.rule
    assert torch.equal(layer.atoms.indices, saved.atoms.indices)
    assert torch.equal(layer.atoms.base.factor_0, saved.atoms.base.factor_0)


@pytest.fixture
def stored(tmp_path):
    save_quietly(make_model("Covariance"), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"0.atoms.base.atoms": t["0.atoms.base.atoms"][:, :-1].contiguous()}),
        lambda t: t.update({"0.atoms.base.atoms": t["0.atoms.base.atoms"].to(torch.int32)}),
        lambda t: t.update({"0.atoms.mixing": t["0.atoms.mixing"][:, :-1].contiguous()}),
        lambda t: t.update({"0.atoms.mixing": t["0.atoms.mixing"] * torch.nan}),
        lambda t: t.pop("0.atoms.base.atoms"),
        lambda t: t.pop("0.atoms.mixing"),
    ],
)
def test_damaged_stored_bases(stored, change):
    edit_tensors(stored, change)
    assert_refused(stored, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda M: M[..., :4, :4],  # there are channels with 5 atoms
        lambda M: M[:, :0],
        lambda M: M[:, :, :0, :0],
        lambda M: M[:, :50],  # which do not divide the base
        lambda M: M[..., :4],
        lambda M: M[:2],
        lambda M: M.flatten(0, 1),
    ],
)
def test_damaged_blocks_of_mixing(tmp_path, change):
    dense = nn.Conv2d(64, 6, 3)
    model = wc.convert(dense, {"": wc.Rule(make_dictionary("Kernel", 576), 300 / 576, 3)})
    save_quietly(model, tmp_path / "model", bases="store")
    edit_tensors(
        tmp_path / "model",
        lambda t: t.update({"atoms.mixing": change(t["atoms.mixing"]).contiguous()}),
    )
    with pytest.raises(wc.FormatError):
        wc.load(tmp_path / "model", dense)


@pytest.mark.parametrize(
    "base",
    [
        {"kind_of_base": "dense", "factors": [[24, 10**9]]},
        {"kind_of_base": "dense", "factors": [[10**9, 24]]},
        {"kind_of_base": "dense", "factors": [24]},
        {"kind_of_base": "dense", "factors": []},
        {"kind_of_base": "dense", "factors": [[24, 24], [24, 24]]},
        {"kind_of_base": "identity", "factors": [10**9]},
        {"kind_of_base": "identity", "factors": [24]},
        {"kind_of_base": "kronecker", "factors": [4, 6]},
        {"kind_of_base": "kronecker", "factors": [10**9, [24, 24]]},
        {"kind_of_base": "kronecker", "factors": [[24, 24, 24]]},
        {"kind_of_base": "kronecker", "factors": [-1, [24, 24]]},
        {"kind_of_base": "pickle", "factors": [24]},
    ],
)
def test_stored_bases_of_other_sizes(stored, base):
    edit_facts(stored, lambda facts: facts["layers"]["0"].update(base=base))
    assert_refused(stored, None)


@pytest.fixture
def masked(tmp_path):
    model = make_model("SparseAtoms")
    save_quietly(model, tmp_path / "model")
    return model, tmp_path / "model"


def test_a_bit_mask_stands_for_the_indices(masked):
    model, folder = masked
    held = load_file(folder / "model.safetensors")
    assert held["0.atoms.mask"].shape == (24, 3)
    assert "0.atoms.indices" not in held
    again = wc.load(folder, make_dense())
    for layer in (0, 2):
        assert torch.equal(again[layer].atoms.indices, model[layer].atoms.indices)
    assert torch.equal(again(X), model(X))


def test_indices_as_numbers_are_read_too(masked):
    model, folder = masked
    indices = model[0].atoms.indices.to(torch.uint8)
    edit_tensors(folder, lambda t: t.update({"0.atoms.indices": indices}))
    edit_tensors(folder, lambda t: t.pop("0.atoms.mask"))
    assert torch.equal(wc.load(folder, make_dense())(X), model(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask ^ 1,
        lambda mask: mask[:-1],
        lambda mask: mask.to(torch.int16),
        lambda mask: mask.flatten(),
        lambda mask: mask[:, :0],
        lambda mask: torch.cat([mask[:, 1:], mask], dim=1),  # atoms that the base does not have
        lambda mask: mask.flip(0),
    ],
)
def test_damaged_masks(masked, change):
    _, folder = masked
    edit_tensors(
        folder, lambda t: t.update({"0.atoms.mask": change(t["0.atoms.mask"]).contiguous()})
    )
    assert_refused(folder, None)
