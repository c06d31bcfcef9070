"""statistics: one hooked pass over example inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import weightcast as wc
from weightcast.inputs.batches import as_batches, call
from weightcast.inputs.gather import StatisticsAccumulator, collect_rows, collect_statistics
from weightcast.inputs.hooks import execution_order, layers_run
from weightcast.inputs.rows import MAX_ROWS_PER_CALL, RowSample
from weightcast.inputs.undisturbed import evaluating

EVERYTHING = ("covariance", "squared_covariance", "sample")


def _collect(batches, needs=EVERYTHING, layer=None, **options):
    layer = layer or nn.Linear(4, 3)
    return collect_statistics(nn.Sequential(layer), "0", batches, needs, **options)


def _rows(model, name, batches, max_rows):
    return collect_rows(model, name, batches, max_rows, torch.Generator().manual_seed(0))


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
        np.testing.assert_allclose(_collect(batches).covariance, expected, atol=1e-9)


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
        sample = _collect(rows.split(30), ("sample",), sample_size=10, generator=generator).sample
        assert sample.shape == (10, 4)
        chosen = (sample[:, 0] / 4).long()
        assert len(chosen.unique()) == 10
        counts[chosen] += 1
    assert bool(((counts / 300 - 0.1).abs() < 0.08).all())


def test_a_small_input_is_sampled_whole():
    rows = torch.randn(7, 4)
    assert torch.equal(_collect([rows], sample_size=100).sample, rows.double())


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
    model = Backwards()
    with pytest.raises(ValueError, match=r"saw 0 input row\(s\).*if the model does not use it"):
        collect_statistics(model, "unused", [torch.randn(5, 4)], ("covariance",))


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    model[2].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    collect_statistics(model, "3", [torch.randn(9, 4)], EVERYTHING)
    assert [m.training for m in model] == [True, True, False, True]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not model[3]._forward_pre_hooks
    with pytest.raises(ValueError, match="NaN"):
        collect_statistics(model, "0", [torch.full((9, 4), float("nan"))], EVERYTHING)
    assert not model[0]._forward_pre_hooks
    assert [m.training for m in model] == [True, True, False, True]


def test_evaluation_mode_means_no_dropout_and_no_gradient():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3))
    rows = torch.randn(40, 4)
    statistics = collect_statistics(model, "1", [rows], ("sample",))
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
        statistics.covariance, np.cov(x.double().numpy().reshape(30, 4).T), atol=1e-9
    )


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        return self.fc(input=x * scale)


def test_a_layer_called_by_keyword_is_seen():
    model, x = Keyword(), torch.randn(20, 4)
    statistics = collect_statistics(model, "fc", [x], ("covariance",))
    assert statistics.n_rows == 20
    assert list(execution_order(model, {"fc": model.fc}, x)) == ["fc"]


def test_batches_of_every_kind():
    x, y = torch.randn(10, 4), torch.zeros(10)
    assert len(as_batches(x)) == 1
    assert len(as_batches([x, x])) == 2
    assert len(as_batches(b for b in (x, x, x))) == 3
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    assert len(as_batches(loader)) == 2
    model = Keyword()
    expected = model(x)
    for batch in (x, (x, y), [x, y], {"x": x}):
        assert torch.equal(call(model, batch), expected)
    assert torch.equal(call(model, {"x": x, "scale": 2.0}), model(x, 2.0))


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_no_batch_at_all_is_refused(empty):
    with pytest.raises(ValueError, match="inputs is empty: pass at least one batch"):
        as_batches(empty)


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.first, self.unused = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(self.first(x))


def test_execution_order_is_that_of_the_calls():
    model, x = Backwards(), torch.randn(5, 4)
    seen = execution_order(model, dict(model.named_children()), x)
    assert list(seen) == ["first", "second"]
    assert torch.equal(seen["first"], x)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_accumulator_is_deterministic():
    results = []
    for _ in range(2):
        accumulator = StatisticsAccumulator(EVERYTHING, 5, torch.Generator().manual_seed(1))
        accumulator.update(torch.arange(80.0).view(20, 4))
        results.append(accumulator.result().sample)
    assert torch.equal(*results)


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [25, 0, 35], [5, 55]])
def test_a_row_sample_is_the_same_however_the_rows_are_batched(sizes):
    rows, samples = torch.arange(240.0).view(60, 4), []
    for batches in ([60], sizes):
        sample = RowSample(10, torch.Generator().manual_seed(3))
        for batch in rows.split(batches):
            sample.update(batch)
        samples.append(sample.rows)
    assert torch.equal(*samples)
    assert samples[0].shape == (10, 4)
    assert len(samples[0].unique(dim=0)) == 10
    assert bool((samples[0][:, 0] % 4 == 0).all())


def test_a_row_sample_is_uniform():
    counts = torch.zeros(50)
    for seed in range(600):
        sample = RowSample(10, torch.Generator().manual_seed(seed))
        for batch in torch.arange(50.0).view(50, 1).split(20):
            sample.update(batch)
        counts[sample.rows.flatten().long()] += 1
    assert bool(((counts / 600 - 0.2).abs() < 0.07).all())


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


def test_a_model_that_changes_its_input_leaves_the_batches_alone():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, more=None):
            return self.fc(x.add_(1) if more is None else more["list"][0].add_(1))

    model, x = InPlace(), torch.randn(20, 4)
    batches = [x.clone(), (x.clone(), None), {"x": x, "more": {"list": [x.clone()]}}]
    rows = _rows(model, "fc", batches, 100)
    assert torch.equal(rows, (x + 1).repeat(3, 1))
    assert torch.equal(batches[0], x)
    assert torch.equal(batches[1][0], x)
    assert torch.equal(batches[2]["more"]["list"][0], x)


class Routed(nn.Module):
    """A mixture: rows of one sign go to one expert, the third gets none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(40, 3)
        self.experts = nn.ModuleList(nn.Linear(40, 40) for _ in range(3))

    def forward(self, x):
        y, choice = x.clone(), (x[:, 0] < 0).long()
        for number, expert in enumerate(self.experts):
            rows = choice == number
            if bool(rows.any()):
                y[rows] = expert(x[rows])
        return self.head(y)


def test_layers_run_are_those_of_all_batches_in_the_models_order():
    model = Routed()
    layers = {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    x = torch.rand(10, 40) + 0.1
    assert layers_run(model, layers, [x]) == ["experts.0", "head"]
    assert layers_run(model, layers, [x, -x]) == ["experts.1", "experts.0", "head"]
    assert layers_run(model, layers, [x, -x[:1]]) == ["experts.0", "head"]
    assert layers_run(model, layers, [x, -x[:1], -x[:1]]) == ["experts.1", "experts.0", "head"]
    assert layers_run(model, layers, [x[:1]]) == ["experts.0", "head"]


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_experts_of_too_few_rows_are_taken_as_not_run(n_rows):
    model, x = Routed(), torch.rand(90, 40) + 0.1
    batches = [x, -x[:n_rows]]
    plan = {"re:experts.*": wc.Rule(wc.dictionaries.DCT(), 0.5)}
    small = wc.compress(model, plan, batches, progress=False)
    plain = wc.compress(model, plan, progress=False)
    same = torch.equal(small.experts[1].V, plain.experts[1].V)
    assert same == (n_rows < 2)
    rows = wc.probe(model, (0.5,), inputs=batches, progress=False).rows
    known = {row.layer for row in rows if row.output_r2 is not None}
    assert known == {"experts.0", "head"} | ({"experts.1"} if n_rows > 1 else set())
    plan = wc.suggest(model, budget=0.9, inputs=batches, progress=False)
    assert set(plan.rules) <= {"*", *known}
