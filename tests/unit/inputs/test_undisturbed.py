"""evaluating: after it, a model is what it was."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.inputs.undisturbed import evaluating, gradients_kept, let_recurrent_learn

COVARIANCE = wc.Rule(wc.dictionaries.Covariance(), 0.5)


class Counting(nn.Module):
    """Counts its calls in every way, fills a table as far as it is asked to, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(8, 8), 0
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("table", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.count += 1
        self.last = x
        self.table = torch.arange(float(self.calls))
        self.register_buffer("late", torch.ones(3), persistent=False)
        noise = torch.rand(()) + random.random() + np.random.rand()
        return self.fc(x) + noise.to(x)


def _run_everything(model: nn.Module, x: torch.Tensor) -> None:
    plan = {"fc": COVARIANCE}
    wc.convert(model, plan, x)
    small = wc.compress(model, plan, x, progress=False)
    wc.compression_report(model, small, x)
    wc.probe(model, (0.5,), inputs=x, progress=False)
    with pytest.raises(ValueError, match="no layer to predict"):
        wc.suggest(model, 0.5, x)


def test_a_model_is_left_as_it_was(unmoved_randomness):
    state = torch.get_rng_state()
    model, x = Counting(), torch.randn(20, 8)
    torch.set_rng_state(state)
    before, table = dict(vars(model)), model.table
    _run_everything(model, x)
    assert vars(model) == before
    assert (model.calls, float(model.count)) == (0, 0.0)
    assert model.table is table
    assert set(model._buffers) == {"count", "table"}


def test_a_buffer_that_did_not_change_can_be_waited_for_by_autograd():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    loss = model(torch.randn(9, 4)).square().sum()
    with evaluating(model):
        model(torch.randn(9, 4))
    loss.backward()


def test_everything_is_restored_after_an_error():
    model = Counting()
    with pytest.raises(ValueError, match="failed on its inputs"):
        wc.convert(model, {"fc": COVARIANCE}, torch.randn(20, 9))
    assert model.training
    assert (model.calls, float(model.count)) == (0, 0.0)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_lazy_layer_becomes_what_it_was_meant_to_be():
    model = nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(3))
    wc.convert(model, {"0": COVARIANCE}, torch.randn(20, 4), inplace=True)
    assert (type(model[1]), model[1].in_features, model[1].training) == (nn.Linear, 8, True)


@pytest.mark.parametrize("how", ["whole", "part", "in place"])
def test_compiled_models_are_run_as_they_were_written(how):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    model, x = Network(), torch.randn(20, 8)
    dense, plain = model, copy.deepcopy(model)
    if how == "whole":
        dense = torch.compile(model, backend="eager")
    elif how == "part":
        model.body = torch.compile(model.body, backend="eager")
    else:
        model.compile(backend="eager")
    with torch.no_grad():
        dense.eval()(x)
    name = {"whole": "_orig_mod.body.0", "part": "body._orig_mod.0", "in place": "body.0"}[how]
    rule = wc.Rule(wc.dictionaries.DCT(), 0.5)
    small = wc.compress(dense, {name: rule}, x, progress=False)
    expected = wc.compress(plain, {"body.0": rule}, x, progress=False)
    torch.testing.assert_close(small.get_submodule(name).weight, expected.body[0].weight)
    lost, by_hand = (
        [row.output_error for row in wc.compression_report(*models, x).rows]
        for models in ((dense, small), (plain, expected))
    )
    assert lost == pytest.approx(by_hand)


def test_gradients_are_given_back_after_an_error_too():
    layer = nn.Linear(2, 3)
    layer.weight.grad = kept = torch.ones(3, 2)

    def stop():
        with gradients_kept(list(layer.parameters())):
            assert layer.weight.grad is None
            layer(torch.ones(1, 2)).sum().backward()
            assert layer.bias.grad is not None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert layer.weight.grad is kept
    assert layer.bias.grad is None


def test_recurrent_layers_learn_without_dropout():
    model = nn.ModuleList([nn.LSTM(2, 3, num_layers=2, dropout=0.5), nn.Dropout(0.5)]).eval()
    with evaluating(model):
        let_recurrent_learn(model)
        assert model[0].training
        assert not model[1].training
        x = torch.ones(4, 1, 2)
        assert torch.equal(model[0](x)[0], model[0](x)[0])
    assert (model[0].training, model[0].dropout) == (False, 0.5)
