"""gather: statistics and rows of layers, from passes over example inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from weightcast.inputs.gather import MOMENTS, Given, collect_rows, collect_statistics
from weightcast.inputs.replay import Replay
from weightcast.inputs.rows import MAX_ROWS_PER_CALL
from weightcast.inputs.undisturbed import evaluating

EVERYTHING = ("covariance", "squared_covariance", "sample")


def _statistics(model, name, batches, needs=EVERYTHING):
    generator = torch.Generator().manual_seed(0)
    return collect_statistics(model, name, Replay(batches, [], {}), needs, generator)


def _collect(batches, needs=EVERYTHING, layer=None):
    return _statistics(nn.Sequential(layer or nn.Linear(4, 3)), "0", batches, needs)


def _rows(model, name, batches, max_rows):
    generator = torch.Generator().manual_seed(0)
    return collect_rows(model, name, Replay(batches, [], {}), max_rows, generator)


@pytest.mark.parametrize("sizes", [[50], [1, 49], [20, 20, 10], [1] * 50, [49, 1]])
def test_covariance_is_numpys_however_the_rows_are_batched(sizes):
    rows = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([1, 10, 100, 0.1]) + 1000
    statistics = _collect(rows.split(sizes), layer=nn.Linear(4, 3).double())
    assert statistics.n_rows == 50
    for value, data in (
        (statistics.covariance, rows),
        (statistics.squared_covariance, rows.square()),
    ):
        expected = np.cov(data.numpy().T)
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        np.testing.assert_allclose(value.numpy() / scale, expected / scale, rtol=0, atol=1e-9)
        assert torch.equal(value, value.t())
        assert value.dtype == torch.float64


def test_an_empty_batch_changes_nothing():
    rows = torch.randn(30, 4)
    expected = np.cov(rows.double().numpy().T)
    for batches in ([rows, rows[:0]], [rows[:0], rows], [rows[:10], rows[:0], rows[10:]]):
        np.testing.assert_allclose(_collect(batches).covariance, expected, atol=1e-6)


def test_only_what_is_needed_is_kept():
    statistics = _collect([torch.randn(9, 4)], ("covariance",))
    assert statistics.squared_covariance is None
    assert statistics.sample is None
    assert _collect([torch.randn(9, 4)], ("sample",)).covariance is None


def test_the_sample_is_uniform_without_replacement():
    rows = torch.arange(400.0).view(100, 4)
    counts = torch.zeros(100)
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        given = Given(("sample",), generator, sample_size=10)
        for part in rows.split(30):
            given.update(part.unsqueeze(1))
        sample = given.statistics().sample
        assert sample.shape == (10, 4)
        chosen = (sample[:, 0] / 4).long()
        assert len(chosen.unique()) == 10
        counts[chosen] += 1
    assert bool(((counts / 300 - 0.1).abs() < 0.08).all())


def test_a_small_input_is_sampled_whole():
    rows = torch.randn(7, 4)
    assert torch.equal(_collect([rows]).sample, rows.double())


def test_long_inputs_are_thinned():
    n = MAX_ROWS_PER_CALL + 500
    statistics = _collect([torch.randn(n, 4)], ("covariance",))
    assert statistics.n_rows == MAX_ROWS_PER_CALL
    torch.testing.assert_close(statistics.covariance, torch.eye(4).double(), atol=0.06, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_inputs_are_counted(bad):
    rows = torch.randn(10, 4)
    rows[3, 1] = rows[4, 1] = bad
    with pytest.raises(ValueError, match=r"2 of 40 input values are NaN or infinite: clean"):
        _collect([rows])


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_refused(rows):
    with pytest.raises(ValueError, match=rf"saw {rows} input row\(s\).*at least 2: pass more"):
        _collect([torch.randn(rows, 4)])


def test_a_layer_that_does_not_run_is_refused():
    model = nn.Sequential(nn.Linear(4, 3))
    model[0].unused = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"saw 0 input row\(s\).*if the model does not use it"):
        _statistics(model, "0.unused", [torch.randn(5, 4)], ("covariance",))


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    _statistics(model, "3", [torch.randn(9, 4)], EVERYTHING)
    assert [m.training for m in model] == [True, True, False, True]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not model[3]._forward_pre_hooks
    with pytest.raises(ValueError, match="NaN"):
        _statistics(model, "0", [torch.full((9, 4), float("nan"))], EVERYTHING)
    assert not model[0]._forward_pre_hooks
    assert [m.training for m in model] == [True, True, False, True]


def test_evaluation_mode_means_no_dropout_and_no_gradient():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3))
    rows = torch.randn(40, 4)
    statistics = _statistics(model, "1", [rows], ("sample",))
    assert torch.equal(statistics.sample, rows.double())
    assert not statistics.sample.requires_grad
    with evaluating(model):
        assert not torch.is_grad_enabled()
        assert not model.training
    assert torch.is_grad_enabled()
    assert model.training


def test_leading_axes_are_rows():
    x = torch.randn(5, 6, 4)
    statistics = _collect([x])
    assert statistics.n_rows == 30
    np.testing.assert_allclose(
        statistics.covariance, np.cov(x.double().numpy().reshape(30, 4).T), atol=1e-6
    )


def test_rows_are_kept_in_order_and_in_their_dtype():
    layer, rows = nn.Linear(4, 3).double(), torch.randn(30, 4, dtype=torch.float64)
    model = nn.Sequential(layer)
    assert torch.equal(_rows(model, "0", rows.split(7), 30), rows)
    assert torch.equal(_rows(model, "0", rows.split(7), 1000), rows)
    assert _rows(model, "0", rows.split(7), 8).shape == (8, 4)
    assert not layer._forward_pre_hooks


class Products(nn.Module):
    """A bilinear layer that is called by name, the second input first."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(2, 3, 4)

    def forward(self, x):
        return self.both(input2=x[:, 2:], input1=x[:, :2])


def test_inputs_by_name_are_in_the_layers_own_order():
    model, x = Products(), torch.randn(9, 5)
    expected = (x[:, :2, None] * x[:, None, 2:]).flatten(1)
    assert torch.equal(_rows(model, "both", [x], 9), expected)


def test_groups_have_moments_of_their_own_and_statistics_together():
    x = torch.randn(30, 2, 4).double()
    given = Given((MOMENTS, "covariance"), torch.Generator())
    for part in x.split(11):
        given.update(part)
    assert (given.moments.groups, given.moments.n_rows, given.n_rows) == (2, 30, 60)
    expected = torch.cov(x.flatten(0, 1).t())
    torch.testing.assert_close(given.statistics().covariance, expected)
    second = given.moments.metric(1e-12, centred=False).moments[1]
    torch.testing.assert_close(second, x[:, 1].t() @ x[:, 1] / 30)


def test_single_precision_is_summed_in_double():
    torch.manual_seed(0)
    x = torch.randn(20_000, 1, 6) + 30
    given = Given(("covariance",), torch.Generator())
    for part in x.split(1000):
        given.update(part)
    expected = np.cov(x[:, 0].double().numpy().T)
    np.testing.assert_allclose(given.statistics().covariance, expected, atol=1e-5)
