"""Leaf: torch.fx writes a predicted layer down as one call, and everyone else runs it."""

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d


class Doubled(wc.PredictedLinear):
    """A layer of someone's own, whose forward does more."""

    def forward(self, input):
        return super().forward(2 * input)


def network(kind=wc.PredictedLinear):
    layer = kind(24, 7, dictionary=d.RandomGaussian(), fraction=0.5, columns=3)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(7, 4))


@pytest.mark.parametrize("kind", [wc.PredictedLinear, Doubled])
def test_a_layer_is_one_node_and_the_same_layer(kind):
    model = network(kind)
    traced = torch.fx.symbolic_trace(model)
    nodes = [(node.op, node.target) for node in traced.graph.nodes]
    assert nodes[1:-1] == [("call_module", name) for name in "012"]
    assert traced.get_submodule("0").V is model[0].V
    for batch in (1, 5, 500):
        x = torch.randn(batch, 24)
        assert torch.equal(traced(x), model(x))


def test_arguments_by_name_are_traced_too():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = network()[0]

        def forward(self, x):
            return self.layer(input=x)

    model, x = Named(), torch.randn(3, 24)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))


def test_a_tracer_that_names_leaves_itself_sees_the_layer_as_a_module():
    seen = []

    class Tracer(torch.fx.Tracer):
        def call_module(self, m, forward, args, kwargs):
            seen.append(self.path_of_module(m))
            return super().call_module(m, forward, args, kwargs)

    Tracer().trace(network())
    assert seen == ["0", "1", "2"]


def test_hooks_run_as_they_do_for_any_module():
    model, seen = network(), []
    model[0].register_forward_hook(lambda *call: seen.append(call))
    model(torch.randn(3, 24))
    assert len(seen) == 1
