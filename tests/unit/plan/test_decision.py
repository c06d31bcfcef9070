"""explain: every module that holds weights is listed, with its rule or why it has none."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import weightcast as wc
from weightcast import dictionaries as d

DCT = wc.Rule(d.DCT(), 0.5)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mystery = nn.Parameter(torch.zeros(3, 4))


class Special(nn.Linear):
    pass


def _frozen() -> nn.Linear:
    return nn.Linear(8, 8).requires_grad_(False)


def _hooked() -> nn.Linear:
    layer = nn.Linear(8, 8)
    layer.register_forward_hook(lambda *_: None)
    return layer


def _dropped_weights() -> nn.LSTM:
    lstm = nn.LSTM(8, 8)
    prune.identity(lstm, "weight_hh_l0")
    return lstm


def _quantised() -> nn.Module:
    layer = nn.Linear(8, 8).requires_grad_(False)
    layer.weight.data = torch.zeros(8, 8, dtype=torch.int8)
    return layer


def _with(name: str, value: Any) -> nn.Linear:
    layer = nn.Linear(8, 8)
    setattr(layer, name, value)
    return layer


def _hooked_weight(register: str) -> nn.Linear:
    layer = nn.Linear(8, 8)
    getattr(layer.weight, register)(lambda *_: None)
    return layer


def _shortened(layer: Any, axis: int = 0) -> nn.Module:
    """A layer with a shorter weight put in, its attributes as they were."""
    weight = layer.weight.detach()
    layer.weight = nn.Parameter(weight.narrow(axis, 0, weight.shape[axis] - 2).clone())
    return layer


def _hooked_state() -> nn.Linear:
    layer = nn.Linear(8, 8)
    layer.register_load_state_dict_pre_hook(lambda *_: None)
    return layer


def _own_forward() -> nn.LSTM:
    lstm = nn.LSTM(8, 8)
    lstm.forward = lstm.forward  # as accelerate does
    return lstm


REFUSED = {
    "frozen": (_frozen, r"is frozen \(requires_grad=False\).*requires_grad_\(True\)"),
    "hooks": (_hooked, "has hooks, .*remove them first"),
    "weight hooks": (
        lambda: _hooked_weight("register_hook"),
        "has hooks on its weight.*remove them first",
    ),
    "gradient hooks": (
        lambda: _hooked_weight("register_post_accumulate_grad_hook"),
        "has hooks on its weight",
    ),
    "forward": (lambda: _with("forward", abs), "has a forward of its own.*delete that attribute"),
    "forward of an lstm": (_own_forward, "has a forward of its own.*delete that attribute"),
    "more parameters": (
        lambda: _with("gain", nn.Parameter(torch.ones(1))),
        "has 'gain' beside its weight and bias",
    ),
    "more modules": (lambda: _with("adapter", nn.Identity()), "has 'adapter' beside its weight"),
    "more buffers": (
        lambda: _with("mask", nn.Buffer(torch.ones(8))),
        "has 'mask' beside.*leave it dense",
    ),
    "lazy": (lambda: nn.LazyLinear(8), "is lazy.*run the model once"),
    "pruned": (lambda: prune.identity(nn.Linear(8, 8), "weight"), "no plain parameter.*remove"),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        "computed by a parametrisation.*remove_parametrizations",
    ),
    "pruned lstm": (_dropped_weights, "its weight_hh_l0 is no plain parameter"),
    "quantised": (_quantised, "torch.int8, not floating point"),
    "complex": (lambda: nn.Linear(8, 8, dtype=torch.complex64), "complex64, not floating point"),
    "fewer filters": (
        lambda: _shortened(nn.Conv2d(4, 8, 3, bias=False)),
        r"its weight is \(6, 4, 3, 3\), and its attributes say \(8, 4, 3, 3\): set them to",
    ),
    "fewer channels": (
        lambda: _shortened(nn.Conv1d(8, 8, 3, groups=2), 1),
        r"its weight is \(8, 2, 3\), and its attributes say \(8, 4, 3\)",
    ),
    "fewer transposed filters": (
        lambda: _shortened(nn.ConvTranspose2d(4, 8, 3), 1),
        r"its weight is \(4, 6, 3, 3\), and its attributes say \(4, 8, 3, 3\)",
    ),
    "fewer bilinear units": (
        lambda: _shortened(nn.Bilinear(3, 5, 8)),
        r"its weight is \(6, 3, 5\), and its attributes say \(8, 3, 5\)",
    ),
    "nothing in it": (lambda: nn.Conv1d(4, 0, 3), r"its weight is \(0, 4, 3\) and holds nothing"),
    "state-dict hooks": (_hooked_state, "has hooks, .*remove them first"),
    "bias of more units": (
        lambda: _shortened(nn.Linear(8, 8)),
        r"its bias is \(8,\), and its weight has 6 units: give it a bias of as many",
    ),
    "max_norm": (lambda: nn.Embedding(8, 8, max_norm=1.0), "max_norm=1.*set max_norm=None"),
    "sparse": (lambda: nn.Embedding(8, 8, sparse=True), "sparse=True.*set sparse=False"),
    "subclass": (lambda: Special(8, 8), "is a subclass of Linear.*put nn.Linear in its place"),
    "unknown": (Odd, r"uses mystery \(3, 4\) itself"),
    "norm": (lambda: nn.LayerNorm(8), "holds no matrix"),
}


def _build(name: str) -> nn.Module:
    make = REFUSED[name][0]
    return nn.ModuleDict(
        {"bad": make(8, 8) if make is Special else make(), "good": nn.Linear(8, 3)}
    )


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
def test_what_an_expression_meets_is_left_dense_with_its_reason(name):
    model = _build(name)
    for key in ("*", "re:.*"):
        explained = wc.Plan({key: DCT}).explain(model)
        assert [row.layer for row in explained.predicted] == ["good"]
        (row,) = (row for row in explained.dense if row.layer.startswith("bad"))
        assert re.search(REFUSED[name][1], row.reason), row.reason
        assert row.reason in " ".join(str(explained).split())  # wrapped where it is long


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
def test_what_is_named_exactly_is_refused_by_name(name):
    model = _build(name)
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match=f"'bad'.*{REFUSED[name][1]}"):
        wc.convert(model, {"bad": DCT}, inplace=True)
    assert dict(model.named_modules()) == modules


@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantization.*:DeprecationWarning")
def test_a_quantised_module_without_parameters_is_listed():
    layer = torch.ao.nn.quantized.dynamic.Linear(8, 8)
    model = nn.ModuleDict({"bad": layer, "good": nn.Linear(8, 3)})
    rows = {row.layer: row for row in wc.Plan({"*": DCT}).explain(model).rows}
    assert rows["bad"].reason.startswith("is quantised: convert or compress the model")


def test_nothing_that_holds_weights_is_left_out():
    model = nn.ModuleDict(
        {
            "mlp": nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)),
            "attention": nn.MultiheadAttention(8, 2),
            "cell": nn.LSTMCell(4, 4),
            "table": nn.Embedding(9, 8),
            "norm": nn.BatchNorm1d(3),
        }
    )
    explained = wc.Plan({"re:mlp.*": DCT, "table": DCT, "*": None}).explain(model)
    rows = {row.layer: row for row in explained.rows}
    held = {id(p) for p in model.parameters() if p.dim() > 1}
    for name, module in model.named_modules():
        if any(id(p) in held for p in module.parameters(recurse=False)):
            assert any(row == name or row.startswith(f"{name}.") for row in rows), name
    assert rows["attention.in_proj"].kind == "MultiheadAttention"
    assert rows["attention.in_proj"].reason == "rule '*' leaves it dense"
    assert all(row.reason for row in explained.dense)
    assert not any(row.reason for row in explained.predicted)


def test_a_name_of_a_module_stands_for_its_weights():
    model = nn.ModuleDict({"a": nn.LSTM(4, 4, 2), "b": nn.MultiheadAttention(8, 2)})
    half, quarter = DCT, wc.Rule(d.DCT(), 0.25)
    resolved = wc.Plan({"a": half, "a.hh_l1": quarter, "re:b": quarter}).resolve(model)
    assert {name: rule.fraction for name, rule in resolved.items()} == {
        "a.ih_l0": 0.5, "a.hh_l0": 0.5, "a.ih_l1": 0.5, "a.hh_l1": 0.25,
        "b.in_proj": 0.25, "b.out_proj": 0.25,
    }  # fmt: skip


def test_data_driven_dictionaries_need_inputs_that_are_multiplied(refuses):
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    rule = wc.Rule(d.Covariance(), 0.5)
    explained = wc.Plan({"*": rule}).explain(model)
    assert [row.layer for row in explained.predicted] == ["1"]
    assert "an embedding selects rows" in explained.dense[0].reason
    with refuses(model, "layer '0'", "Covariance is made from a layer's inputs", "DCT"):
        wc.convert(model, {"0": rule}, inputs=torch.arange(9), inplace=True)


def test_layers_too_small_for_a_rule_stay_dense_beside_others(refuses):
    model = nn.ModuleDict(
        {"big": nn.Linear(20, 9), "thin": nn.Linear(1, 9), "few": nn.Linear(20, 2)}
    )
    explained = wc.Plan({"*": wc.Rule(d.DCT(), 0.25, columns=3)}).explain(model)
    reasons = {row.layer: row.reason for row in explained.rows}
    assert reasons["big"] == ""
    assert "fraction 0.25 of 1 inputs" in reasons["thin"]
    assert reasons["few"] == "has 2 units, and columns is 3: every column needs a unit"
    with refuses(model, "layer 'thin'", "below one atom"):
        wc.convert(model, {"thin": wc.Rule(d.DCT(), 0.25)}, inplace=True)
    for key in ("*", "re:.*"):
        with refuses(model, "matches no layer that can be predicted", "'big': fraction 0.01 of 20"):
            wc.convert(model, {key: wc.Rule(d.DCT(), 0.01)}, inplace=True)


def test_explaining_takes_no_step_of_a_spectral_norm():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = wc.Plan({"1": DCT})
    plan.explain(model)
    wc.convert(model, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("inputs", [None, torch.arange(9)])
def test_dictionaries_made_from_weights_need_no_inputs(inputs):
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    rule = wc.Rule(d.SingularVectors(), 0.5)
    best = torch.linalg.svd(model[0].weight.detach().double()).Vh[:4].t()
    for small in (
        wc.convert(model, {"*": rule}, inputs),
        wc.convert(model, {"0": rule}, inputs),
        wc.compress(model, {"*": rule}, inputs, progress=False),
    ):
        U = small[0].atoms.dictionary(0).double()
        torch.testing.assert_close(best @ (best.t() @ U), U, rtol=0, atol=1e-5)


def test_a_reason_that_has_its_own_subject_is_given_no_other(refuses):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))
    with refuses(model, "'0' names a ParametrizedLinear.* predicted: its weight is computed by"):
        wc.convert(model, {"0": DCT}, inplace=True)
    with refuses(model, "names a ParametrizationList.*: it holds no matrix|: it uses original"):
        wc.convert(model, {"0.parametrizations.weight": DCT}, inplace=True)
