"""trace: a graph without a model's own code, or an error that says where and what to do."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from weightcast.storage.tracing import quiet, trace

X = torch.randn(3, 4)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_the_graph_computes_the_same_for_any_batch():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    program = trace(model, (X[:1],), dynamic_batch=True)  # an axis of length 1 is free as well
    for n in (1, 2, 7):
        x = torch.randn(n, 4)
        torch.testing.assert_close(program.module()(x), model(x))


def test_a_fixed_batch_takes_no_other():
    program = trace(nn.Linear(4, 3).eval(), (X,), dynamic_batch=False)
    with pytest.raises(Exception, match="shape"):
        program.module()(torch.randn(5, 4))


def test_nothing_tells_of_this_machine_or_these_inputs():
    program = trace(nn.Linear(4, 3).eval(), (X,), dynamic_batch=True)
    assert program.example_inputs is None
    for node in program.graph.nodes:
        assert not {"stack_trace", "nn_module_stack", "source_fn_stack"} & node.meta.keys()


def test_a_model_that_cannot_be_traced_is_told_where_and_what_to_do():
    model = nn.Sequential(nn.Linear(4, 4), Branching())
    with pytest.raises(
        ValueError, match=r"(?s)cannot trace this model.*'1' \(Branching\), line \d+"
    ) as e:
        trace(model, (X,), dynamic_batch=False)
    assert "choose with torch.where, or leave that part out" in str(e.value)


def test_a_model_that_fails_by_itself_is_told_so_first():
    with pytest.raises(
        ValueError, match=r"itself fails on inputs of shape \(3, 4\): .*'0' \(Linear"
    ):
        trace(nn.Sequential(nn.Linear(5, 3)), (X,), dynamic_batch=True)


def test_quiet_keeps_away_remarks_and_nothing_else():
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with quiet():
            assert logger.level == logging.CRITICAL
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("careful", UserWarning, stacklevel=1)
    assert [str(w.message) for w in heard] == ["careful"]
    assert logger.level == before
