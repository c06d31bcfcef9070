"""compression_report: each layer's loss, against the loss counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double()
RULE = wc.Rule(d.DCT(), 0.5)


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


MODEL = dense()
SMALL = wc.compress(MODEL, {"0": RULE, "*": None})


def share(y: torch.Tensor, expected: torch.Tensor) -> float:
    varies = expected - expected.mean(dim=0)
    return float((y - expected).square().sum() / varies.square().sum())


def test_losses_are_those_counted_by_hand_in_however_many_batches():
    with torch.no_grad():
        W, W_small = MODEL[0].weight, SMALL[0].weight
        lost = float((W - W_small).square().sum() / W.square().sum())
        outputs = share(SMALL[0](X), MODEL[0](X)), share(SMALL(X), MODEL(X))
    for inputs in (X, list(X.split(17)), [(X, torch.zeros(40))]):
        layer, whole = wc.compression_report(MODEL, SMALL, inputs).rows
        assert (layer.layer, layer.dictionary, whole.layer) == ("0", "DCT", "model")
        assert layer.weight_error == pytest.approx(lost)
        assert (layer.output_error, whole.output_error) == pytest.approx(outputs)
        assert whole.weight_error is None


def test_counts_are_the_ledgers():
    layer, whole = wc.compression_report(MODEL, SMALL).rows
    ledger = wc.ledger(SMALL)
    for row, counted in ((layer, ledger.rows[0]), (whole, ledger.total)):
        assert (row.dense, row.learned) == (counted.dense, counted.learned)
        assert row.stored == counted.stored
    assert layer.output_error is whole.output_error is None


def test_the_table_and_the_data_say_the_same():
    report = wc.compression_report(MODEL, SMALL, X)
    lines = str(report).splitlines()
    heads = ("layer", "dictionary", "learned", "stored", "weights lost", "output lost")
    assert all(head in lines[0] for head in heads)
    assert lines[-1].split()[0] == "model"
    assert f"{100 * (report.rows[0].output_error or 0):.3g} %" in str(report)
    assert report.to_dict()["layers"][0]["learned"] == report.rows[0].learned


def test_outputs_that_never_vary_have_no_share_of_variance():
    model = dense()
    with torch.no_grad():
        model[2].weight.zero_()
    small = wc.compress(model, {"0": RULE, "*": None})
    layer, whole = wc.compression_report(model, small, X).rows
    assert layer.output_error is not None
    assert whole.output_error is None


def test_it_leaves_both_networks_as_they_are(unmoved_randomness):
    before = {name: t.clone() for name, t in SMALL.state_dict().items()}
    SMALL.train()
    wc.compression_report(MODEL, SMALL, X)
    assert SMALL.training
    assert all(torch.equal(t, before[name]) for name, t in SMALL.state_dict().items())
    assert not any(m._forward_hooks for m in (*MODEL.modules(), *SMALL.modules()))


def test_networks_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="no predicted layer: nothing was compressed"):
        wc.compression_report(MODEL, dense())
    with pytest.raises(
        ValueError, match=r"layer '0' is a PredictedLinear, and the dense model has"
    ):
        wc.compression_report(nn.Sequential(nn.Tanh(), MODEL[2]), SMALL)
    wider = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with pytest.raises(ValueError, match="layer '0': "):
        wc.compression_report(wider, SMALL)
    with pytest.raises(ValueError, match="on the meta device and holds no values"):
        wc.compression_report(dense().to("meta"), SMALL)
