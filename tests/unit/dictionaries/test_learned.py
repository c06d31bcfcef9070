"""Dictionaries learned from a layer's inputs."""

from __future__ import annotations

import pytest
import torch
from sklearn import decomposition

from weightcast import dictionaries as d
from weightcast.testing import example_statistics

STATISTICS = example_statistics(6)


def test_pca_is_scikit_learns_up_to_signs():
    assert STATISTICS.sample is not None
    expected = torch.from_numpy(decomposition.PCA(3).fit(STATISTICS.sample.numpy()).components_)
    U = d.PCA().atoms(6, 3, statistics=STATISTICS).dictionary(0)
    torch.testing.assert_close((expected @ U).abs(), torch.eye(3).double(), atol=1e-8, rtol=0)


def test_whitened_projections_have_unit_variance():
    assert STATISTICS.covariance is not None
    U = d.PCA(whiten=True, ridge=0.0).atoms(6, 4, statistics=STATISTICS).dictionary(0)
    torch.testing.assert_close(U.t() @ STATISTICS.covariance @ U, torch.eye(4).double())
    with pytest.raises(ValueError, match=r"ridge is -1: it must be at least 0 and finite"):
        d.PCA(ridge=-1)


def test_columns_share_the_leading_components():
    atoms = d.PCA().atoms(6, 2, columns=2, statistics=STATISTICS)
    assert atoms.base.n_base == 4
    assert sorted(atoms.indices.flatten().tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [d.KMeans, d.Autoencoder])
def test_features_are_drawn_from_as_many_as_were_learned(kind):
    atoms = kind(n_features=5).atoms(6, 3, columns=2, statistics=STATISTICS)
    assert atoms.base.n_base == 5
    mixed = kind(n_features=5, mixing="orthonormal").atoms(6, 3, columns=2, statistics=STATISTICS)
    assert torch.equal(mixed.indices, atoms.indices)
    for U, raw in zip(mixed.dictionaries(), atoms.dictionaries(), strict=True):
        torch.testing.assert_close(U.t() @ U, torch.eye(3).double())
        torch.testing.assert_close(U @ (U.t() @ raw), raw)  # of the same span
    assert kind().atoms(6, 3, statistics=STATISTICS).base.n_base == 6


def test_learning_neither_needs_nor_leaves_gradients():
    with torch.no_grad():
        atoms = d.Autoencoder(epochs=1).atoms(6, 3, statistics=STATISTICS)
    again = d.Autoencoder(epochs=1).atoms(6, 3, statistics=STATISTICS)
    assert not atoms.base.rows(torch.arange(6)).requires_grad
    torch.testing.assert_close(again.dictionaries(), atoms.dictionaries())


def test_an_estimators_atoms_are_those_that_it_synthesises_with():
    assert STATISTICS.sample is not None
    fitted = decomposition.PCA(4).fit(STATISTICS.sample.numpy())
    leading = d.FromEstimator(fitted, selection="leading")
    U = leading.atoms(6, 2).dictionary(0)
    torch.testing.assert_close(U.t(), torch.from_numpy(fitted.components_[:2]))
    assert d.FromEstimator(fitted).atoms(6, 2, seed=1).base.n_base == 4
    with pytest.raises(ValueError, match="FromEstimator has 4 atoms, 5 were asked for"):
        leading.atoms(6, 5)
    with pytest.raises(ValueError, match="a fitted estimator, which has no JSON form"):
        leading.to_json_data()
