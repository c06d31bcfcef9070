"""Fingerprints: the same for the same dictionary in any dtype, others for all others."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import weightcast as wc
from tests.contract.table import DICTIONARIES, make_atoms
from weightcast.dictionaries import Atoms
from weightcast.dictionaries.fingerprint import Fingerprint, _scattered, fingerprint

FLOAT = (torch.float32, torch.float32)


@pytest.mark.parametrize("name", DICTIONARIES)
def test_it_is_the_sum_it_says(name):
    atoms = make_atoms(name, 5, columns=3)
    U = atoms.dictionaries().detach()  # (columns, n_visible, n_atoms)
    x, w = _scattered(4 * 24).view(4, 24), _scattered(15).view(3, 5)
    values = torch.einsum("cia,ki->cak", U, x)
    found = fingerprint(atoms)
    assert found.sums == pytest.approx(torch.einsum("cak,ca->k", values, w).tolist(), rel=1e-9)
    assert found.size == pytest.approx(float(values.norm()), rel=1e-9)


def test_the_places_are_scattered():
    numbers = _scattered(100_000)
    assert len(set(numbers.tolist())) > 99_990
    assert abs(float(numbers.mean())) < 0.01
    assert float(numbers.square().mean()) == pytest.approx(1 / 3, rel=0.02)
    assert abs(float((numbers[1:] * numbers[:-1]).mean())) < 0.01


@pytest.mark.parametrize("name", DICTIONARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_agree(name, dtype):
    atoms = make_atoms(name, 5, columns=3)
    exact = fingerprint(atoms)
    assert fingerprint(atoms.to(dtype)).agrees(exact, (dtype, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_orders_do_not(dtype):
    atoms = make_atoms("Kernel", 6, columns=3).to(dtype)
    found = fingerprint(atoms)
    for indices in (atoms.indices.flip(0), atoms.indices.flip(1), atoms.indices.roll(1, 1)):
        other = fingerprint(Atoms(atoms.base, indices.contiguous(), atoms.mixing))
        assert not other.agrees(found, (dtype, dtype))


def test_slightly_other_dictionaries_do_not():
    found = fingerprint(make_atoms("Kernel", 6, columns=3).float())
    dictionary = wc.dictionaries.Kernel(wc.kernels.SquaredExponential(1.3))
    for other in (
        dataclasses.replace(dictionary, ridge=0.1001),
        dataclasses.replace(dictionary, kernel=wc.kernels.SquaredExponential(1.3005)),
        dataclasses.replace(dictionary, mixing="raw"),
    ):
        atoms = other.atoms(24, 6, columns=3, grid=(4, 6))
        assert not fingerprint(atoms).agrees(found, FLOAT)


def test_the_stated_tolerance():
    found = Fingerprint((1.0, 0.0), 10.0)
    assert Fingerprint((1.0 + 9e-5, 0.0), 10.0).agrees(found, FLOAT)
    assert not Fingerprint((1.0 + 2e-4, 0.0), 10.0).agrees(found, FLOAT)
    assert not Fingerprint((1.0,), 10.0).agrees(found, FLOAT)
    assert not Fingerprint((float("nan"), 0.0), 10.0).agrees(found, FLOAT)


@pytest.mark.parametrize("size", [float("inf"), float("nan")])
def test_what_is_not_finite_agrees_with_nothing(size):
    found = fingerprint(make_atoms("Kernel", 5, columns=3))
    odd = Fingerprint((size,) * 4, size)
    assert not odd.agrees(found, FLOAT)
    assert not found.agrees(odd, FLOAT)
    assert not odd.agrees(odd, FLOAT)
