"""PredictedWeight: W = U V, its initial values, its fit and its two paths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weightcast as wc
from tests.oracle import loops
from weightcast import dictionaries as d
from weightcast.storage.export import _prepare
from weightcast.weight import dense_variance, draw_bias, known, surely


def _weight(n_visible=12, n_units=7, n_atoms=5, columns=3, **options) -> wc.PredictedWeight:
    atoms = d.Kernel().atoms(n_visible, n_atoms, columns=columns, grid=(3, n_visible // 3))
    weight = wc.PredictedWeight(atoms, n_units, **options)
    weight.reset_V(dense_variance(n_visible))
    return weight


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_split_of_units_into_columns(data):
    n_units = data.draw(st.integers(1, 12))
    columns = data.draw(st.integers(1, n_units))
    n_atoms = data.draw(st.integers(1, 6))
    atoms = d.RandomGaussian().atoms(6, n_atoms, columns=columns)
    layer = wc.PredictedWeight(atoms, n_units)
    layer.reset_V(1.0)
    assert layer.unit_columns.tolist() == loops.column_of_unit(n_units, columns)
    W = torch.stack(
        [atoms.dictionaries()[c] @ layer.V[:, u] for u, c in enumerate(layer.unit_columns.tolist())]
    )
    torch.testing.assert_close(layer.weight, W)
    x = torch.randn(4, 6, dtype=torch.float64)
    for path in ("factored", "materialised", "auto"):
        layer.path = path
        torch.testing.assert_close(layer(x), x @ W.t())


def test_bias_is_added_on_both_paths():
    weight, x = _weight(), torch.randn(4, 12, dtype=torch.float64)
    bias = torch.randn(7, dtype=torch.float64)
    for path in ("factored", "materialised"):
        weight.path = path
        torch.testing.assert_close(weight(x, bias), weight(x) + bias)


def test_more_columns_than_units_are_refused():
    with pytest.raises(ValueError, match=r"3 columns for 2 units.*at most 2"):
        _weight(n_units=2)


@pytest.mark.parametrize("path", ["fast", "", None])
def test_an_unknown_path_is_refused(path):
    with pytest.raises(ValueError, match="take 'auto', 'factored' or 'materialised'"):
        _weight(path=path)


def test_reset_reaches_the_variance_in_every_column():
    weight = _weight(n_units=3000, columns=3)
    weight.reset_V(0.25, torch.Generator().manual_seed(3))
    for column in range(3):
        rows = weight.weight[weight.unit_columns == column].detach()
        assert float(rows.square().mean()) == pytest.approx(0.25, rel=0.06)


@pytest.mark.usefixtures("unmoved_randomness")
def test_reset_draws_from_its_generator_alone():
    one, two = _weight(), _weight()
    assert torch.equal(one.V, two.V)
    two.reset_V(1 / 36, torch.Generator().manual_seed(1))
    assert not torch.equal(one.V, two.V)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fit_refuses_what_is_not_finite_and_keeps_v(bad):
    weight = _weight()
    before = weight.V.detach().clone()
    W = torch.randn(7, 12)
    W[2, 3] = bad
    with pytest.raises(ValueError, match="W holds 1 NaN or infinite entries"):
        weight.fit(W)
    assert torch.equal(weight.V, before)


@pytest.mark.parametrize("shape", [(12, 7), (7, 11), (6, 12), (7, 2, 5)])
def test_fit_refuses_another_shape(shape):
    weight = _weight()
    before = weight.V.detach().clone()
    with pytest.raises(ValueError, match=r"expected \(n_units, n_visible\) = \(7, 12\)"):
        weight.fit(torch.zeros(shape))
    assert torch.equal(weight.V, before)


def test_fit_reports_the_unexplained_share():
    weight = _weight()
    W = torch.randn(7, 12, dtype=torch.float64)
    share = weight.fit(W)
    assert share == pytest.approx(
        float((W - weight.weight).square().sum().detach() / W.square().sum())
    )
    assert 0 < share < 1
    assert weight.fit(weight.weight) < 1e-20
    assert weight.fit(torch.zeros(7, 12)) == 0
    assert float(weight.V.detach().abs().max()) == 0


def test_fit_survives_nearly_dependent_atoms():
    atoms = d.Kernel(wc.kernels.SquaredExponential(5.0), ridge=1e-6).atoms(36, 30, grid=(6, 6))
    weight = wc.PredictedWeight(atoms, 4)
    share = weight.fit(torch.randn(4, 36, dtype=torch.float64))
    assert 0 < share < 1
    assert bool(weight.V.isfinite().all())


def test_the_path_with_fewer_multiply_adds_is_taken():
    weight = _weight(n_visible=60, n_units=50, n_atoms=3, columns=2)
    for batch in (1, 10, 1000):
        costs = {path: weight.multiply_adds(batch, path) for path in ("factored", "materialised")}
        assert weight.multiply_adds(batch) == min(costs.values())
    wide = _weight(n_visible=12, n_units=12, n_atoms=12, columns=12)
    assert wide.multiply_adds(1000) == wide.multiply_adds(1000, "materialised")


def test_multiply_adds_by_hand():
    # 784 inputs on a 28 x 28 grid, 39 atoms, 500 units, 20 columns, batch 100: method, section 5.
    atoms = d.Kernel().atoms(784, 39, columns=20, grid=(28, 28))
    weight = wc.PredictedWeight(atoms, 500)
    transform = 784 * 56
    assert atoms.base.multiply_adds == transform
    fold = 39 * 39 * 500
    assert weight.multiply_adds(100, "factored") == fold + 100 * (transform + 39 * 500)
    assert weight.multiply_adds(100, "materialised") == fold + 784 * 39 * 500 + 100 * 784 * 500


def test_the_initialisers_are_torchs():
    torch.manual_seed(0)
    dense = torch.nn.Linear(50, 4000)
    assert float(dense.weight.detach().var()) == pytest.approx(dense_variance(50), rel=0.02)
    bias = draw_bias(4000, 50, torch.Generator().manual_seed(0))
    assert float(bias.abs().max()) <= 50**-0.5
    assert float(bias.var()) == pytest.approx(float(dense.bias.detach().var()), rel=0.1)


def test_nothing_static_is_a_parameter():
    weight = _weight()
    assert [name for name, _ in weight.named_parameters()] == ["V"]
    state = set(weight.state_dict())
    assert {"V", "atoms.indices", "atoms.mixing"} < state


def test_the_wrong_number_of_inputs_is_named():
    layer = wc.PredictedLinear(64, 4, dictionary=wc.dictionaries.DCT(), fraction=0.5)
    with pytest.raises(ValueError, match=r"input is \(4, 32\).*the layer's 64 inputs"):
        layer(torch.zeros(4, 32))
    atoms = wc.dictionaries.DCT().atoms(32, 16)
    with pytest.raises(ValueError, match="atoms are for 32 inputs, the layer has 64"):
        wc.PredictedLinear(64, 4, dictionary=wc.dictionaries.DCT(), fraction=0.5, atoms=atoms)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_what_is_surely_so_is_said_of_numbers_alone():
    """Symbols of make_fx, and the tensors that torch.jit.trace takes sizes for, can be any."""
    assert known(3)
    assert surely(3 > 2)
    assert not surely(2 > 3)
    found = []

    def trace(x):
        found.append((known(x.shape[0]), surely(x.shape[0] > 2), surely(x.shape[0] < 2)))
        return x + 1

    torch.fx.experimental.proxy_tensor.make_fx(trace, tracing_mode="symbolic")(torch.ones(5, 3))
    torch.jit.trace(trace, torch.ones(5, 3), check_trace=False)
    assert found == [(False, False, False)] * 2


def test_columns_that_gather_more_than_they_save_are_never_factored():
    few = wc.PredictedLinear(64, 64, dictionary=d.RandomConnections(), fraction=0.25)
    many = wc.PredictedLinear(64, 64, dictionary=d.RandomConnections(), fraction=0.25, columns=64)
    assert not few.never_factored
    assert few.choose_path(100) == "factored"
    assert many.never_factored
    assert many.choose_path(1) == many.choose_path(10**6) == "materialised"
    x = torch.randn(5, 64)
    y = many(x)
    free = ({0: torch.export.Dim.DYNAMIC},)
    graph = torch.export.export(many, (x,), dynamic_shapes=free, strict=False).graph
    assert not any("index_select" in str(node.target) for node in graph.nodes)
    assert [_prepare(layer, "factored").path for layer in (few, many)] == [
        "factored", "materialised",
    ]  # fmt: skip
    many.path = "factored"
    torch.testing.assert_close(many(x), y)
