"""ledger: counts against counting by hand and against what is really there."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d

EVERY_FORM = [
    d.Kernel(),
    d.Covariance(),
    d.RandomGaussian(),
    d.LowRank(),
    d.RandomConnections(),
    d.DCT(),
    d.PCA(whiten=True),
]
"""Of static part: shared, stored, learned, none at all."""

RULE = wc.Rule(d.Kernel(), 0.25, 2, (3, 4))


def _model() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 5)
    )


def test_counts_by_hand():
    ledger = wc.ledger(wc.convert(_model(), {"0": RULE, "2": RULE, "*": None}))
    first, second, norm, last = ledger.rows
    assert [row.layer for row in ledger.rows] == ["0", "2", "3", "4"]
    assert first.kind == "PredictedLinear"
    assert first.dense == 12 * 12 + 12
    assert first.learned == 3 * 12 + 12
    base, mixing, indices = 3 * 3 + 4 * 4, 2 * 3 * 3, 2 * 3
    stacked = 2 * 3 * 12  # x U costs 72 multiply-adds, x B 84
    assert first.static == base + mixing + indices + stacked
    assert second.static == mixing + indices + stacked  # the base is shared
    assert first.stored == first.learned + indices
    assert first.sent_per_step == first.learned
    assert first.optimiser_state == 2 * first.learned
    assert first.proportion_learned == pytest.approx(48 / 156)
    assert first.multiply_adds == stacked + 3 * 12
    assert first.dense_multiply_adds == 144
    assert (norm.dense, norm.learned, norm.multiply_adds) == (24, 24, 0)
    assert (last.dense, last.learned, last.static) == (65, 65, 0)
    total = ledger.total
    assert total.learned == 48 + 48 + 24 + 65
    assert total.dense == 156 + 156 + 24 + 65
    assert total.layer == "total"


@pytest.mark.parametrize("dictionary", EVERY_FORM)
def test_counts_are_those_of_the_model(dictionary):
    model = _model()
    rule = wc.Rule(dictionary, 0.25, 2, (3, 4))
    converted = wc.convert(model, {"0": rule, "2": rule, "*": None}, inputs=torch.randn(50, 12))
    total = wc.ledger(converted).total
    assert total.learned == sum(p.numel() for p in converted.parameters() if p.requires_grad)
    assert total.dense == sum(p.numel() for p in model.parameters())
    optimiser = torch.optim.Adam(converted.parameters())
    converted(torch.randn(4, 12)).sum().backward()
    optimiser.step()
    state = sum(v.numel() for s in optimiser.state.values() for k, v in s.items() if k != "step")
    assert total.optimiser_state == state


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dictionary", EVERY_FORM)
def test_stored_is_what_the_folder_holds(dictionary, norm, tmp_path):
    model = _model()
    if not norm:
        del model[3]
    rule = wc.Rule(dictionary, 0.25, 2, (3, 4))
    converted = wc.convert(model, {"0": rule, "2": rule, "*": None}, inputs=torch.randn(50, 12))
    wc.save(converted, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert wc.ledger(converted).total.stored == sum(t.numel() for t in tensors.values())


def test_dense_models_and_frozen_layers():
    model = _model()
    model[0].weight.requires_grad_(False)
    first = wc.ledger(model).rows[0]
    assert (first.learned, first.static, first.stored) == (12, 144, 156)
    assert wc.ledger(model).total.dense == sum(p.numel() for p in model.parameters())
    assert wc.ledger(nn.Sequential(nn.ReLU())).total.proportion_learned == 1.0


def test_shared_and_tied_weights_count_once():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, shared, nn.Linear(8, 8))
    model[2].weight = shared.weight
    assert wc.ledger(model).total.dense == 72 + 8
    converted = wc.convert(nn.Sequential(shared, shared), {"*": wc.Rule(d.DCT(), 0.5)})
    assert len(wc.ledger(converted).rows) == 1


def test_convolutions_count_per_position():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    row = wc.ledger(model).rows[0]
    assert row.multiply_adds == row.dense_multiply_adds == 8 * 2 * 9
    converted = wc.convert(model, {"0": wc.Rule(d.DCT(), 0.5)})
    row = wc.ledger(converted).rows[0]
    assert row.dense_multiply_adds == 8 * 2 * 9
    assert row.dense == 8 * 2 * 9 + 8


def test_the_table_and_the_json_form():
    ledger = wc.ledger(wc.convert(_model(), {"0": RULE, "*": None}))
    lines = str(ledger).splitlines()
    assert lines[0].split()[:4] == ["layer", "kind", "dense", "learned"]
    assert lines[-1].startswith("total")
    assert "PredictedLinear" in str(ledger)
    assert f"{ledger.total.learned:,}" in lines[-1]
    assert all(line == line.rstrip() for line in lines)
    data = json.loads(json.dumps(ledger.to_dict()))
    assert data["total"]["learned"] == ledger.total.learned
    assert [row["layer"] for row in data["layers"]] == ["0", "2", "3", "4"]
    assert data["layers"][0]["proportion_learned"] == pytest.approx(48 / 156)


def test_counting_changes_nothing():
    model = wc.convert(_model(), {"0": RULE})
    before = {name: t.clone() for name, t in model.state_dict().items()}
    wc.ledger(model, batch=7)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    for batch in (1, 10, 1000):
        row = wc.ledger(model, batch=batch).rows[0]
        assert row.multiply_adds * batch >= model[0].multiply_adds(batch)


def test_lazy_modules():
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(5))
    with pytest.raises(ValueError, match="layer '1' has no shape yet: call the model once"):
        wc.ledger(model)
    model(torch.zeros(1, 4))
    assert wc.ledger(model).total.learned == 45


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_bytes_are_those_of_the_tensors_with_masks_and_numbers(dtype, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 5)).to(dtype)
    plan = {"0": wc.Rule(d.SparseAtoms(), 0.5), "2": wc.Rule(d.RandomConnections(), 0.2)}
    model = wc.convert(model, plan)
    ledger = wc.ledger(model)
    wc.save(model, tmp_path / "model")
    held = load_file(tmp_path / "model" / "model.safetensors")
    assert ledger.total.stored_bytes == sum(t.nbytes for t in held.values())
    sparse = ledger.rows[0]
    assert held["0.atoms.mask"].nbytes == 30 * 5
    assert sparse.stored == 20 * 30 + 30 + -(-150 // dtype.itemsize)
    assert f"{ledger.total.stored_bytes:,}" in str(ledger)
