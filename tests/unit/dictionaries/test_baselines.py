"""Baselines: what is drawn, and what LowRank learns."""

from __future__ import annotations

import pytest
import torch

from weightcast import dictionaries as d


def test_gaussian_atoms_have_unit_norm_on_average():
    U = d.RandomGaussian().atoms(400, 50, columns=2).dictionaries()
    assert float(U.square().sum(dim=1).mean()) == pytest.approx(1, rel=0.02)
    assert abs(float(U.mean())) < 0.001
    assert not torch.equal(U[0], U[1])


def test_more_columns_than_fit_take_another_rotation():
    # 10 inputs hold two columns of 4 atoms: columns 0 and 1, then 2 and 3.
    U = d.RandomGaussian("orthonormal").atoms(10, 4, columns=4).dictionaries()
    eye, zero = torch.eye(4).double(), torch.zeros(4, 4).double()
    for one, other in ((0, 1), (2, 3)):
        torch.testing.assert_close(U[one].t() @ U[one], eye)
        torch.testing.assert_close(U[one].t() @ U[other], zero)
    assert float((U[0].t() @ U[2]).abs().max()) > 0.01


def test_rotations_are_uniform():
    # QR with R's signs left as they are would favour a half of the directions.
    first = torch.stack(
        [
            d.RandomGaussian("orthonormal").atoms(2, 1, seed=s).dictionary(0)[:, 0]
            for s in range(400)
        ]
    )
    angles = torch.atan2(first[:, 1], first[:, 0])
    counts = torch.histc(angles, 4, -torch.pi, torch.pi)
    assert float(counts.min()) > 70
    assert float(counts.max()) < 130


def test_connections_are_inputs_and_grouped_ones_draw_nothing():
    atoms = d.RandomConnections().atoms(7, 3, columns=2)
    assert torch.equal(atoms.dictionary(1), torch.eye(7)[:, atoms.indices[1]].double())
    grouped = d.RandomConnections("grouped")
    assert torch.equal(grouped.atoms(7, 3, seed=0).indices, grouped.atoms(7, 3, seed=1).indices)


def test_low_rank_learns_its_atoms_and_the_others_none():
    for dictionary in (d.LowRank(), d.RandomGaussian(), d.RandomConnections()):
        learned = isinstance(dictionary, d.LowRank)
        atoms = dictionary.atoms(6, 2, columns=3)
        assert [p.shape for p in atoms.parameters()] == ([(6, 6)] if learned else [])
        assert atoms.base.is_learned == learned


@pytest.mark.parametrize(("fraction", "n_atoms"), [(0.5, 20), (1e-9, 1)])
def test_low_ranks_matching_fraction_is_of_whole_atoms(fraction, n_atoms):
    # 80 inputs, 80 units: U and V hold 160 weights an atom, of 6400.
    assert d.LowRank.matching_fraction(fraction, 80, 80) == n_atoms / 80


@pytest.mark.parametrize("kind", [d.RandomGaussian, d.RandomConnections, d.LowRank])
def test_more_atoms_than_inputs_are_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} has 6 atoms, 7 were asked for: take a"):
        kind().atoms(6, 7)
