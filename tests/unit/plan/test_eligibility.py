"""Which layers can be predicted, and what is said of the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import weightcast as wc
from weightcast.plan.eligibility import (
    convertible_layers,
    has_hooks,
    is_quantised,
    module_refusal,
    refusals,
    weight_refusal,
)


class Own(nn.Linear):
    pass


class Matrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(2, 3))


def frozen() -> nn.Module:
    return nn.Linear(6, 4).requires_grad_(False)


def hooked() -> nn.Module:
    layer = nn.Linear(6, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


def extended() -> nn.Module:
    layer = nn.Linear(6, 4)
    layer.scale = nn.Parameter(torch.ones(1))
    return layer


def replaced() -> nn.Module:
    layer = nn.Linear(6, 4)
    layer.forward = lambda input: input  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(6, 4), "weight", 2)


REFUSED = [
    (frozen, r"is frozen .*: call requires_grad_\(True\) first"),
    (hooked, "has hooks, which a replaced layer would lose: remove them first"),
    (extended, "has 'scale' beside its weight and bias"),
    (replaced, "has a forward of its own .*: delete that attribute first"),
    (pruned, "its weight is no plain parameter .*: remove that first"),
    (lambda: nn.Linear(6, 0), r"its weight is \(0, 6\) and holds nothing"),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_a_layer_that_cannot_be_predicted_is_told_why_and_what_to_do(make, message):
    model = nn.Sequential(make(), nn.Linear(4, 2))
    found = refusals(model, convertible_layers(model))
    assert list(found) == ["0"]
    with pytest.raises(ValueError, match=message):
        raise ValueError(str(found["0"]))


MODULES = [
    (Own(2, 3), "is a subclass of Linear, and what it computes is not known: leave it dense, or"),
    (Matrix(), r"uses table \(2, 3\) itself, in a way that is not known: it stays dense"),
    (nn.BatchNorm1d(3), "holds no matrix"),
    (nn.LazyLinear(3), "is lazy, .*: run the model once on example inputs first"),
    (parametrizations.weight_norm(nn.Linear(2, 3)), "its weight is computed by a parametrisation"),
]


@pytest.mark.parametrize(("module", "message"), MODULES, ids=lambda x: type(x).__name__)
def test_a_module_of_no_kind_that_can_be_predicted_is_told_why(module, message):
    assert convertible_layers(nn.Sequential(module)) == {}
    with pytest.raises(ValueError, match=message):
        raise ValueError(str(module_refusal(module)))


def test_layers_are_listed_once_by_first_name_and_weights_of_modules_too():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared, "rnn": nn.GRU(4, 3), "c": nn.Tanh()})
    assert list(convertible_layers(model)) == ["a", "rnn.ih_l0", "rnn.hh_l0"]
    assert list(convertible_layers(nn.Linear(2, 3))) == [""]
    rule = wc.Rule(wc.dictionaries.DCT(), 0.5)
    converted = wc.convert(model, {"a": rule, "*": None})
    assert list(convertible_layers(converted)) == ["rnn.ih_l0", "rnn.hh_l0"]


def test_layers_of_one_weight_are_refused_together():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert refusals(model, convertible_layers(model)) == {}
    model[1].register_forward_hook(lambda *_: None)
    found = {name: str(why) for name, why in refusals(model, convertible_layers(model)).items()}
    assert found.keys() == {"0", "1"}
    assert found["0"].startswith("is tied to '1', which cannot be predicted: has hooks")


def test_a_weight_that_something_else_reads_stays():
    model = nn.Sequential(nn.Linear(4, 4), Matrix())
    model[1].table = model[0].weight
    found = refusals(model, convertible_layers(model))
    assert str(found["0"]).startswith("is tied (0.weight = 1.table), and not all of these can be")


def test_weights_of_few_bits_are_no_matrix_to_read():
    layer = nn.Linear(6, 4)
    assert weight_refusal(layer) is None
    layer.weight = nn.Parameter(torch.zeros(4, 6, dtype=torch.float8_e4m3fn), requires_grad=False)
    assert "torch.float8_e4m3fn, not floating point of 16 bits" in str(weight_refusal(layer))
    layer.weight = nn.Parameter(torch.zeros(4, 6, dtype=torch.int8), requires_grad=False)
    assert is_quantised(layer)
    assert not is_quantised(nn.Embedding(3, 2))


def test_hooks_of_every_kind_are_seen():
    for register in (
        "forward_hook",
        "forward_pre_hook",
        "full_backward_hook",
        "state_dict_pre_hook",
    ):
        layer = nn.Linear(2, 2)
        assert not has_hooks(layer)
        getattr(layer, f"register_{register}")(lambda *_: None)
        assert has_hooks(layer), register


def test_weights_that_torchao_has_quantised_are_refused_and_can_be_read_back():
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x, whole = torch.randn(40, 64), {"*": wc.Rule(wc.dictionaries.DCT(), 1.0)}
    int8 = quantization.Int8WeightOnlyConfig()
    quantization.quantize_(model, int8, filter_fn=lambda _, name: name == "2")
    small = wc.compress(model, whole, inputs=x, progress=False)
    assert isinstance(small[0], wc.PredictedLinear)
    assert type(small[2].weight).__name__ == "Int8Tensor"
    assert torch.allclose(small(x), model(x), atol=1e-2)
    for verb in (wc.convert, wc.compress):
        with pytest.raises(ValueError, match="layer '2': its weight is quantised, torchao's Int8"):
            verb(model, {"2": whole["*"]})
    quantization.quantize_(model, int8, filter_fn=lambda _, name: name == "0")
    for verb in (wc.suggest, wc.probe):
        with pytest.raises(ValueError, match=r"torchao's Int8Tensor: .*\.dequantize\(\)\)"):
            verb(model)
    layer: nn.Linear = model[0]  # pyright: ignore[reportAssignmentType]
    layer.weight = nn.Parameter(layer.weight.dequantize())  # what the remedy says
    small = wc.compress(model, whole, inputs=x, progress=False)
    assert torch.allclose(small(x), model(x), atol=1e-2)


def test_layers_of_bitsandbytes_are_refused_by_name():
    """By a class of theirs in name and place; the package itself needs a GPU."""
    eight = type("Linear8bitLt", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    model = nn.Sequential(eight(64, 64), nn.Linear(64, 64))
    rule = wc.Rule(wc.dictionaries.DCT(), 0.5)
    with pytest.raises(ValueError, match=r"Linear8bitLt, .* quantised: convert or compress the"):
        wc.compress(model, {"0": rule})
    assert [row.layer for row in wc.Plan({"*": rule}).explain(model).predicted] == ["1"]


def test_torchao_leaves_v_as_it_is():
    """It quantises nn.Linear; merged, a predicted layer is one."""
    quantization = pytest.importorskip("torchao.quantization")
    x, rule = torch.randn(4, 64), wc.Rule(wc.dictionaries.DCT(), 0.5)
    model = wc.convert(nn.Sequential(nn.Linear(64, 64)), {"*": rule})
    before = model(x)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert model[0].V.dtype == torch.float32
    assert torch.equal(model(x), before)
    dense = wc.merge(model)
    quantization.quantize_(dense, quantization.Int8WeightOnlyConfig())
    assert type(dense[0].weight).__name__ == "Int8Tensor"
    assert torch.allclose(dense(x), before, atol=0.1)
