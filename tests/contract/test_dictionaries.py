"""What every dictionary, kernel and base operator must do, beyond what check_dictionary checks."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import weightcast as wc
from tests.contract.table import (
    BASES,
    DICTIONARIES,
    KERNELS,
    LAYERS,
    example_statistics,
    make_atoms,
    make_dictionary,
)
from weightcast import dictionaries as d

ALL = pytest.mark.parametrize("name", DICTIONARIES)


@ALL
@pytest.mark.parametrize("fraction", [0.05, 0.3, 1.0])
def test_fraction_sets_the_number_of_atoms_whatever_the_columns(name, fraction):
    for columns in (1, 3, 7):
        layer = LAYERS["Linear"].build(name, fraction, columns=columns)
        assert layer.V.shape == (round(fraction * 24), 7)


@ALL
def test_the_same_seed_gives_the_same_layer_whatever_the_dtype(name):
    layers = [
        LAYERS["Linear"].build(name, columns=2, seed=5, dtype=dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    ]
    for layer in layers[1:]:
        assert torch.equal(layer.atoms.indices, layers[0].atoms.indices)
        assert torch.equal(layer.V, layers[0].V.to(layer.V.dtype))
        assert torch.equal(layer.bias, layers[0].bias.to(layer.V.dtype))
        tolerance = 1e-4 if layer.V.dtype == torch.float32 else 0.05
        exact = layers[0].atoms.dictionaries().detach()
        error = (layer.atoms.dictionaries().detach() - exact).norm() / exact.norm()
        assert float(error) < tolerance


@ALL
def test_another_seed_gives_another_draw_where_anything_is_drawn(name):
    dictionary = make_dictionary(name, 24)
    selection = getattr(dictionary, "selection", "random")
    never = (d.PCA, d.LocalKernel, d.SingularVectors, d.SparseAtoms)
    settled = selection in ("leading", "grouped") or isinstance(dictionary, never)
    for columns in (1, 3):
        one, two = (make_atoms(name, 6, columns, seed=s).dictionaries() for s in (0, 1))
        greedy = selection == "pivoted" and columns == 1
        assert torch.equal(one, two) == (settled or greedy)


@ALL
@pytest.mark.parametrize("columns", [1, 3])
def test_initial_weights_have_the_dense_layers_variance(name, columns):
    options = {
        "dictionary": make_dictionary(name, 24),
        "fraction": 0.5,
        "columns": columns,
        "grid": (4, 6),
        "statistics": example_statistics(24),
    }
    W = torch.cat(
        [wc.PredictedLinear(24, 1500, seed=seed, **options).weight.detach() for seed in range(3)]
    )
    assert float(W.double().square().mean()) == pytest.approx(1 / (3 * 24), rel=0.06)
    assert abs(float(W.double().mean())) < 0.01
    dense = torch.nn.Linear(24, 1500).weight
    assert float(W.square().mean() / dense.detach().square().mean()) == pytest.approx(1, rel=0.08)


@ALL
def test_dictionaries_are_frozen_values(name):
    dictionary = make_dictionary(name, 24)
    with pytest.raises(AttributeError):
        dictionary.anything = 1
    assert repr(dictionary).startswith(type(dictionary).__name__)
    hash(dictionary)
    if DICTIONARIES[name].has_json:
        assert make_dictionary(name, 24) == dictionary


@ALL
def test_json_round_trip(name):
    rule = LAYERS["Linear"].rule(name, 0.25, columns=3, path="factored")
    plan = wc.Plan({"0": rule, "re:a\\..*": None, "*": None})
    if not DICTIONARIES[name].has_json:
        with pytest.raises(ValueError, match="FromEstimator holds a fitted estimator"):
            plan.to_json()
        return
    again = wc.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.rules["0"].grid == wc.Grid((4, 6))
    one, two = (
        p.rules["0"].dictionary.atoms(24, 6, grid=(4, 6), statistics=example_statistics(24))
        for p in (plan, again)
    )
    assert torch.equal(one.dictionaries(), two.dictionaries())


@ALL
def test_too_many_atoms_are_refused_with_the_numbers(name):
    if name in ("Autoencoder-orthonormal", "KMeans-orthonormal"):
        pattern = "span only"  # 40 or 30 features of 24 inputs
    else:
        pattern = r"has \d+ atoms, 50 were asked for|24 (inputs|atoms).*50"
    n_atoms = 50 if "span" not in pattern else 26
    with pytest.raises(ValueError, match=pattern):
        make_atoms(name, n_atoms)


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_the_matrix_it_stands_for(name):
    base, B = BASES[name]
    assert (base.n_visible, base.n_base) == tuple(B.shape)
    everything = torch.arange(base.n_base)
    torch.testing.assert_close(base.rows(everything), B.t())
    indices = torch.tensor([[0, base.n_base - 1], [1, 0]])
    torch.testing.assert_close(base.rows(indices), B.t()[indices])
    x = torch.randn(6, base.n_visible, dtype=torch.float64)
    torch.testing.assert_close(base.transform(x), (x @ B).t())
    coefficients = torch.randn(6, base.n_base, dtype=torch.float64)
    torch.testing.assert_close(base.synthesise(coefficients), coefficients @ B.t())
    torch.testing.assert_close(
        base.entries(torch.arange(base.n_visible).unsqueeze(1), everything), B
    )
    for chosen in (everything, everything[:1], everything[-2:].flip(0)):  # many atoms, and few
        torch.testing.assert_close(base.gram(chosen), B.t()[chosen] @ B[:, chosen])


@pytest.mark.parametrize("name", BASES)
def test_a_base_follows_its_dtype(name):
    base, B = BASES[name]
    small = copy.deepcopy(base).to(torch.float32)
    indices = torch.tensor([[0, 1]])
    assert small.rows(indices).dtype == torch.float32
    assert small.entries(indices, indices).dtype == torch.float32
    assert small.transform(torch.randn(2, base.n_visible)).dtype == torch.float32
    assert isinstance(base.n_static, int)
    assert 0 <= base.n_static <= B.numel()
    assert not list(base.parameters())


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_symmetric_and_positive(name):
    kernel = KERNELS[name]
    points = wc.Grid((4, 5)).coordinates()
    K = kernel(points, points)
    assert K.shape == (20, 20)
    assert K.dtype == torch.float64
    torch.testing.assert_close(K, K.t())
    assert float(torch.linalg.eigvalsh(K).min()) > -1e-10
    torch.testing.assert_close(K.diagonal(), K[0, 0].expand(20))
    assert kernel(points[:3], points).shape == (3, 20)
    assert float(K[0, 1]) > float(K[0, 4])


@pytest.mark.parametrize("name", KERNELS)
def test_a_separable_kernel_is_a_product_over_axes(name):
    kernel = KERNELS[name]
    grid = wc.Grid((3, 4))
    K = kernel(grid.coordinates(), grid.coordinates())
    rows, columns = (kernel(axis, axis) for axis in grid.axes())
    product = torch.kron(rows, columns)
    scaled = product * K[0, 0] / product[0, 0]
    assert kernel.separable == torch.allclose(K, scaled, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_frozen_values_that_pickle(name):
    kernel = KERNELS[name]
    for twin in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert twin == kernel
        assert hash(twin) == hash(kernel)
    rule = wc.Rule(d.Kernel(kernel), 0.5, grid=(4, 6))
    plan = wc.Plan({"0": rule})
    assert wc.Plan.from_json(plan.to_json()) == plan


def test_the_number_of_atoms_is_the_rounded_share():
    for n_visible in (3, 24, 784):
        for fraction in (0.01, 0.02, 0.05, 0.333, 0.5, 0.999, 1.0):
            if round(fraction * n_visible):
                assert d.count_atoms(fraction, n_visible) == round(fraction * n_visible)
            else:
                with pytest.raises(ValueError, match="below one atom"):
                    d.count_atoms(fraction, n_visible)
    assert math.isclose(d.count_atoms(0.05, 784), 39)


def test_atoms_that_cost_less_by_themselves_are_multiplied_out_once():
    x = torch.randn(5, 24, dtype=torch.float64)
    few, many = make_atoms("Covariance", 3, columns=2), make_atoms("Covariance", 13, columns=2)
    assert few.stacked is not None
    torch.testing.assert_close(few.stacked, few.dictionaries().mT)
    assert many.stacked is None  # 26 atoms of 24 inputs
    assert make_atoms("LowRank", 3, columns=2).stacked is None  # B is learned
    assert few.float().stacked.dtype == torch.float32
    few = few.double()
    assert "stacked" not in few.state_dict()
    other = make_atoms("Covariance", 3, columns=2, seed=1)
    few.load_state_dict(other.state_dict())  # what follows from the loaded tensors follows
    torch.testing.assert_close(few.project(x), other.project(x))
    torch.testing.assert_close(copy.deepcopy(few).project(x), other.project(x))
