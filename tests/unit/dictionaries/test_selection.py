"""selection: which atoms each column takes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightcast import Grid
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.dictionaries.selection import (
    deal_leading,
    draw_on_grid,
    pivoted_points,
    random_points,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_draws_are_distinct_and_even_over_channels(data):
    grid = Grid(
        tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))),
        data.draw(st.integers(1, 4)),
    )
    n_atoms = data.draw(st.integers(1, grid.n_visible))
    columns = data.draw(st.integers(1, 4))
    positions = data.draw(st.sampled_from(["per_channel", "shared"]))
    generator = _generator(data.draw(st.integers(0, 9)))
    pick = random_points(grid.n_points, generator)
    indices = draw_on_grid(grid, n_atoms, columns, positions, pick, generator)
    assert indices.shape == (columns, n_atoms)
    for column in indices:
        assert len(column.unique()) == n_atoms
        counts = (column // grid.n_points).bincount(minlength=grid.channels)
        assert int(counts.max() - counts.min()) <= 1
        if positions == "shared":
            places = [
                set((column[column // grid.n_points == c] % grid.n_points).tolist())
                for c in range(grid.channels)
            ]
            largest = max(places, key=len)
            assert all(place <= largest for place in places)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_leading_atoms_are_dealt_like_cards(data):
    n_base = data.draw(st.integers(1, 40))
    n_atoms = data.draw(st.integers(1, n_base))
    columns = data.draw(st.integers(1, 6))
    order = torch.randperm(n_base, generator=_generator(1))
    dealt = deal_leading(order, n_atoms, columns)
    assert dealt.shape == (columns, n_atoms)
    for column in dealt:
        assert len(column.unique()) == n_atoms
    pool = order[: min(n_base, columns * n_atoms)]
    assert set(dealt.flatten().tolist()) <= set(pool.tolist())
    if columns == 1:
        assert torch.equal(dealt[0], order[:n_atoms])
    if columns * n_atoms <= n_base:
        assert set(dealt.flatten().tolist()) == set(pool.tolist())


def test_random_points_are_uniform():
    generator = _generator()
    pick = random_points(6, generator)
    counts = torch.stack([pick(2).bincount(minlength=6) for _ in range(3000)]).sum(dim=0)
    assert bool(((counts / 3000 - 1 / 3).abs() < 0.04).all())


@pytest.mark.parametrize(
    "dictionary", [d.Kernel(), d.DCT(), d.Fourier(), d.RandomConnections()], ids=repr
)
def test_every_position_is_equally_likely(dictionary):
    counts = torch.zeros(12)
    for seed in range(400):
        indices = dictionary.atoms(12, 3, columns=2, grid=(3, 4), seed=seed).indices
        counts += indices.flatten().bincount(minlength=12)
    share = counts / (400 * 2)
    assert bool(((share - 3 / 12).abs() < 0.07).all()), share


def test_pivoted_columns_start_at_random_and_one_column_does_not():
    dictionary = d.Kernel(k.SquaredExponential(1.5), selection="pivoted")
    many = dictionary.atoms(30, 4, columns=5, grid=(5, 6)).indices
    assert len({tuple(sorted(column)) for column in many.tolist()}) > 1
    one = [dictionary.atoms(30, 4, grid=(5, 6), seed=s).indices.tolist() for s in range(3)]
    assert one[0] == one[1] == one[2]


def test_pivoted_points_run_out_with_the_variance():
    vectors = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]], dtype=torch.float64)
    K = vectors.t() @ vectors
    pick = pivoted_points(K.diagonal(), lambda p: K[:, p], _generator(), random_start=False)
    assert pick(2).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"only 2 of 3 atoms.*smaller fraction"):
        pick(3)


def test_per_channel_positions_differ_and_shared_ones_do_not():
    grid = Grid((5, 5), channels=3)
    for positions, distinct in (("per_channel", True), ("shared", False)):
        atoms = d.Kernel(positions=positions).atoms(75, 12, grid=grid)
        sets = {
            tuple(sorted((atoms.indices[0][4 * c : 4 * c + 4] % 25).tolist())) for c in range(3)
        }
        assert (len(sets) > 1) == distinct


@pytest.mark.parametrize("name", ["Kernel", "DCT", "Fourier", "Wavelet"])
def test_unknown_positions_are_refused(name):
    with pytest.raises(ValueError, match=r"positions.*per_chanel"):
        getattr(d, name)(positions="per_chanel")


@pytest.mark.parametrize("name", ["Kernel", "Covariance", "SquaredCovariance", "DCT", "Fourier",
                                  "Wavelet"])  # fmt: skip
def test_unknown_selections_are_refused(name):
    with pytest.raises(ValueError, match=r"selection.*largest"):
        getattr(d, name)(selection="largest")
    if name in ("DCT", "Fourier", "Wavelet"):
        with pytest.raises(ValueError, match="selection is 'pivoted', none of 'random', 'leading'"):
            getattr(d, name)(selection="pivoted")
