"""Least squares in the metric of the inputs, against solutions written out one unit at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import weightcast as wc
from tests.contract.table import make_atoms
from weightcast import dictionaries as d
from weightcast.least_squares import (
    Metric,
    at_places,
    by_group,
    choose_atoms,
    fit_columns,
    loss_curve,
    solve_at,
)


def _metric(groups: int = 1, n: int = 24) -> Metric:
    rows = torch.randn(groups, 3 * n, n, generator=_generator(), dtype=torch.float64)
    return Metric(rows.mT @ rows)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _weight(n_units: int = 8, n_visible: int = 24) -> torch.Tensor:
    return torch.randn(n_units, n_visible, generator=_generator(), dtype=torch.float64)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", ["DCT", "Kernel", "Covariance-leading"])
def test_each_unit_solves_its_own_normal_equations(name, groups):
    atoms, W, metric = make_atoms(name, 5, columns=3), _weight(), _metric(groups)
    columns = [slice(0, 3), slice(3, 6), slice(6, 8)]
    V, left = fit_columns(atoms, columns, W, metric)
    total = lost = 0.0
    for column, units in enumerate(columns):
        U = atoms.dictionary(column).numpy()
        for unit in range(units.start, units.stop):
            C = metric.moments[unit * groups // 8].numpy()
            w = W[unit].numpy()
            expected = np.linalg.solve(U.T @ C @ U, U.T @ C @ w)
            np.testing.assert_allclose(V[:, unit].numpy(), expected, rtol=1e-7, atol=1e-9)
            residual = w - U @ expected
            lost += residual @ C @ residual
            total += w @ C @ w
    assert left == pytest.approx(lost / total)


def test_nearly_dependent_atoms_are_no_trouble():
    kernel = d.Kernel(wc.kernels.SquaredExponential(6.0), mixing="raw")
    atoms = kernel.atoms(24, 20, grid=(4, 6))
    V, left = fit_columns(atoms, [slice(0, 8)], _weight(), _metric())
    assert bool(V.isfinite().all())
    assert left < 0.2  # of 24 directions, 20 are fitted or given up


@pytest.mark.parametrize("groups", [1, 2])
def test_each_chosen_atom_is_the_one_that_explains_most(groups):
    W, metric = _weight(), _metric(groups)
    base = d.DCT().atoms(24, 24, grid=(4, 6)).base
    columns = [slice(0, 3), slice(3, 8)]
    chosen = choose_atoms(base, columns, W, 6, metric)
    for units, indices in zip(columns, chosen.tolist(), strict=True):
        for k in range(6):
            left = [
                _left(base, [*indices[:k], atom], units, W, metric) if atom not in indices[:k]
                else np.inf
                for atom in range(24)
            ]  # fmt: skip
            assert left[indices[k]] == pytest.approx(min(left))


def _left(base, indices, units, W, metric) -> float:
    U, total = base.rows(torch.tensor(indices)).t(), 0.0
    for group, part in by_group(metric, units, len(W)):
        S = metric.roots[group]
        A, target = S @ U, S @ W[part].t()
        solution = torch.linalg.lstsq(A, target, driver="gelsd").solution
        total += float((A @ solution - target).square().sum())
    return total


def test_without_inputs_an_orthonormal_base_gives_its_largest_coefficients():
    W, base = _weight(1), d.DCT().atoms(24, 24, grid=(4, 6)).base
    chosen = choose_atoms(base, [slice(0, 1)], W, 5)[0]
    coefficients = base.transform(W)[:, 0].abs()
    assert set(chosen.tolist()) == set(coefficients.topk(5).indices.tolist())


def test_atoms_that_say_nothing_new_come_last_and_only_once():
    doubled = torch.eye(6, dtype=torch.float64)[[0, 0, 1, 2, 3, 4, 5]]
    W = _weight(3, 6)
    chosen = choose_atoms(d.DenseBase(doubled), [slice(0, 3)], W, 7)[0].tolist()
    assert sorted(chosen) == list(range(7))
    assert chosen[-1] in (0, 1)


def test_a_metric_must_be_positive_definite():
    with pytest.raises(ValueError, match=r"not positive definite.*larger ridge"):
        Metric(torch.zeros(1, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["identity", "dense", "dependent"])
def test_units_with_dictionaries_of_their_own_are_solved_at_once(kind, groups):
    generator, W = _generator(), _weight()
    metric = _metric(groups)
    base = d.IdentityBase(24)
    if kind != "identity":
        rows = torch.randn(30, 24, dtype=torch.float64, generator=generator)
        base = d.DenseBase(rows.repeat(2, 1) if kind == "dependent" else rows)
    indices = torch.rand(8, base.n_base, generator=generator).topk(9, dim=1).indices
    if kind == "dependent":
        indices[:, 0], indices[:, 1] = 3, 33  # the same atom twice
    atoms = d.Atoms(base, indices)
    V, left = fit_columns(atoms, [slice(j, j + 1) for j in range(8)], W, metric)
    lost = total = 0.0
    for unit in range(8):
        S, U = metric.roots[unit * groups // 8], atoms.dictionary(unit)
        exact = torch.linalg.lstsq(S @ U, S @ W[unit], driver="gelsd").solution
        torch.testing.assert_close(U @ V[:, unit], U @ exact, rtol=1e-7, atol=1e-7)
        lost += float((S @ (W[unit] - U @ exact)).square().sum())
        total += float((S @ W[unit]).square().sum())
    assert left == pytest.approx(lost / total, rel=1e-9)


@pytest.mark.parametrize("n_atoms", [1, 5, 12, 13, 20, 24])
def test_equations_at_places_are_solved_for_few_and_for_most(n_atoms):
    gram = _metric().moments[0]
    products = torch.randn(7, 24, dtype=torch.float64, generator=_generator())
    places = torch.rand(7, 24, generator=_generator()).topk(n_atoms, dim=1).indices
    x, failed = solve_at(gram, products, places)
    assert not failed.any()
    for row, own in enumerate(places):
        exact = torch.linalg.solve(gram[own][:, own], products[row, own])
        torch.testing.assert_close(x[row], exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n_atoms", [7, 12, 17])
def test_many_places_are_solved_step_by_step(n_atoms, monkeypatch):
    monkeypatch.setattr(at_places, "_WIDE", 2)
    monkeypatch.setattr(at_places, "_MANY", 8)
    gram, products = _metric().moments[0], _weight()
    places = torch.stack([torch.randperm(24, generator=_generator())[:n_atoms] for _ in range(8)])
    found, failed = solve_at(gram, products, places)
    assert not bool(failed.any())
    for x, own, product in zip(found, places, products, strict=True):
        exact = torch.linalg.solve(gram[own][:, own], product[own])
        assert float((x - exact).norm()) < 1e-3 * float(exact.norm())
        excess = (x - exact) @ gram[own][:, own] @ (x - exact)
        assert float(excess) < 1e-6 * float(exact @ product[own])


def test_units_that_do_not_settle_step_by_step_are_told_too(monkeypatch):
    monkeypatch.setattr(at_places, "_WIDE", 1)
    monkeypatch.setattr(at_places, "_MANY", 2)
    places = torch.tensor([[0, 1, 2, 3], [5, 5, 6, 7]])
    gram = _metric(n=10).moments[0]
    assert solve_at(gram, _weight(2, 10), places)[1].tolist() == [False, True]
    gram[9] = gram[:, 9] = 0.0  # no inverse of the whole: by the factors of each row's places
    found, failed = solve_at(gram, _weight(2, 10), places)
    exact = torch.linalg.solve(gram[:4, :4], _weight(2, 10)[0, :4])
    assert not bool(failed[0])
    assert torch.allclose(found[0], exact, rtol=1e-5)


def test_a_unit_that_does_not_settle_is_told():
    gram = torch.ones(2, 2).double()
    products = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).double()  # the second has no solution
    _, failed = solve_at(gram, products, torch.tensor([[0, 1], [0, 1]]))
    assert bool(failed[1])


def test_atoms_that_differ_by_rounding_explain_no_more_than_they_do():
    n, n_atoms = 200, 180
    spread = torch.logspace(0, -2, n, dtype=torch.float64)[
        torch.randperm(n, generator=_generator())
    ]
    rows = torch.randn(250, n, dtype=torch.float64, generator=_generator()) * spread
    C = rows.t() @ rows / 250
    metric = Metric((C + 0.01 * C.diagonal().mean() * torch.eye(n)).unsqueeze(0))
    kernel = d.Kernel(wc.kernels.SquaredExponential(3.0), mixing="raw")
    base, W = kernel.atoms(n, n_atoms, grid=(n,)).base.double(), _weight(30, n)
    curve = loss_curve(base, W, n_atoms, metric)
    chosen = choose_atoms(base, [slice(0, 30)], W, n_atoms, metric)[0]
    for count in (20, 80, 140, 180):
        A, target = metric.roots[0] @ base.rows(chosen[:count]).t(), metric.roots[0] @ W.t()
        fitted = A @ torch.linalg.lstsq(A, target, driver="gelsd").solution
        left = float((fitted - target).square().sum() / target.square().sum())
        assert float(curve[count - 1]) > left * (1 - 1e-6)
        assert float(curve[count - 1]) < 1.1 * left + 0.06


@pytest.mark.parametrize("twice", [False, True])
def test_entries_of_ones_own_are_the_weights_themselves(twice):
    W, indices = _weight(), torch.rand(8, 24, generator=_generator()).topk(9, dim=1).indices
    if twice:
        indices[:, 1] = indices[:, 0]
    atoms = d.Atoms(d.IdentityBase(24), indices)
    V, left = fit_columns(atoms, [slice(j, j + 1) for j in range(8)], W)
    fitted = torch.zeros(8, 24).double().scatter_add_(1, indices, V.t())
    expected = torch.zeros(8, 24).double().scatter_(1, indices, W.gather(1, indices))
    torch.testing.assert_close(fitted, expected)
    assert left == pytest.approx(float((W - expected).square().sum() / W.square().sum()))
