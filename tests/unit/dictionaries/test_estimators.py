"""Estimators: the affine synthesis maps of scikit-learn, and refusals by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import cluster, decomposition, pipeline, preprocessing, random_projection
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import BernoulliRBM

import weightcast as wc
from weightcast import dictionaries as d

ROWS = np.random.default_rng(0).uniform(0.1, 1, (60, 8))


def _atoms(estimator, n_visible: int = 8) -> torch.Tensor:
    return d.FromEstimator(estimator, selection="leading").atoms(n_visible, 3).base.atoms


@pytest.mark.parametrize(
    "estimator",
    [
        decomposition.PCA(4),
        decomposition.PCA(4, whiten=True),
        decomposition.IncrementalPCA(4),
        decomposition.TruncatedSVD(4),
        decomposition.NMF(4, max_iter=2000, init="nndsvda"),
        decomposition.FastICA(4, random_state=0, whiten="unit-variance", max_iter=2000, tol=0.1),
        pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(4)),
        preprocessing.StandardScaler(),
        random_projection.GaussianRandomProjection(4, compute_inverse_components=True),
    ],
    ids=lambda e: type(e).__name__,
)
def test_atoms_are_what_inverse_transform_makes_of_unit_codes(estimator):
    estimator.fit(ROWS)
    n_codes = estimator.transform(ROWS).shape[1]
    offset = estimator.inverse_transform(np.zeros((1, n_codes)))
    expected = estimator.inverse_transform(np.eye(n_codes)) - offset
    np.testing.assert_allclose(_atoms(estimator), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "attribute"),
    [
        (cluster.KMeans(4, n_init=1, random_state=0), "cluster_centers_"),
        (cluster.MiniBatchKMeans(4, n_init=1, random_state=0), "cluster_centers_"),
        (cluster.BisectingKMeans(4, random_state=0), "cluster_centers_"),
        (decomposition.DictionaryLearning(4, max_iter=2, random_state=0), "components_"),
        (decomposition.SparsePCA(4, max_iter=2, random_state=0), "components_"),
        (decomposition.FactorAnalysis(4, tol=0.1), "components_"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_atoms_are_the_attribute_that_synthesises(estimator, attribute):
    estimator.fit(ROWS)
    np.testing.assert_allclose(_atoms(estimator), getattr(estimator, attribute))


@pytest.mark.parametrize(
    "estimator",
    [
        decomposition.KernelPCA(4, kernel="rbf", fit_inverse_transform=True),
        decomposition.KernelPCA(4),
        preprocessing.QuantileTransformer(n_quantiles=20, output_distribution="normal"),
        preprocessing.PowerTransformer(),
        preprocessing.OneHotEncoder(),
        preprocessing.KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        preprocessing.PolynomialFeatures(2),
        preprocessing.Normalizer(),
        decomposition.LatentDirichletAllocation(3, max_iter=2),
        BernoulliRBM(3, n_iter=1),
        cluster.DBSCAN(),
    ],
    ids=lambda e: f"{type(e).__name__}",
)
def test_estimators_without_an_affine_synthesis_are_refused_by_name(estimator):
    estimator.fit(ROWS)
    with pytest.raises(ValueError, match=type(estimator).__name__):
        _atoms(estimator)


@pytest.mark.parametrize("estimator", [LinearRegression(), PLSRegression(2)])
def test_supervised_estimators_are_refused_or_affine(estimator):
    estimator.fit(ROWS, ROWS[:, :2])
    if isinstance(estimator, LinearRegression):
        with pytest.raises(ValueError, match="LinearRegression"):
            _atoms(estimator)
    else:
        assert d.FromEstimator(estimator).atoms(8, 2).base.atoms.shape == (2, 8)


@pytest.mark.parametrize("estimator", [decomposition.PCA(3), cluster.KMeans(3), "PCA", None])
def test_what_is_not_fitted_is_refused(estimator):
    with pytest.raises(ValueError, match=rf"{type(estimator).__name__} is not a fitted estimator"):
        _atoms(estimator)


def test_another_number_of_features_is_refused():
    estimator = decomposition.PCA(3).fit(ROWS)
    with pytest.raises(ValueError, match=r"fitted on 8 features, the layer has 10 inputs: fit it"):
        _atoms(estimator, 10)


def test_too_few_features_are_refused():
    estimator = decomposition.PCA(3).fit(ROWS)
    with pytest.raises(ValueError, match=r"has 3 atoms, 4 were asked for"):
        d.FromEstimator(estimator).atoms(8, 4)


def test_selection_and_mixing():
    estimator = cluster.KMeans(6, n_init=1, random_state=0).fit(ROWS)
    leading = d.FromEstimator(estimator, selection="leading").atoms(8, 2, columns=3)
    assert sorted(leading.indices.flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    U = d.FromEstimator(estimator, mixing="orthonormal").atoms(8, 4, columns=2).dictionaries()
    torch.testing.assert_close(U.transpose(1, 2) @ U, torch.eye(4).double().expand(2, -1, -1))


def test_the_layer_is_named_and_the_model_untouched(refuses):
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 6))
    estimator = decomposition.PCA(3).fit(ROWS)
    plan = wc.Plan({"*": wc.Rule(d.FromEstimator(estimator), 0.3)})
    with refuses(model, "layer '1'", "fitted on 8 features, the layer has 4 inputs"):
        wc.convert(model, plan, inplace=True)


def test_the_estimator_is_not_changed():
    estimator = decomposition.PCA(3).fit(ROWS)
    before = estimator.components_.copy()
    layer = wc.PredictedLinear(8, 4, dictionary=d.FromEstimator(estimator), fraction=0.3)
    layer.atoms.base.atoms.zero_()
    np.testing.assert_array_equal(estimator.components_, before)
    kmeans = cluster.KMeans(3, n_init=1).fit(ROWS)
    before = kmeans.cluster_centers_.copy()
    atoms = d.FromEstimator(kmeans).atoms(8, 3)
    atoms.base.atoms.zero_()
    np.testing.assert_array_equal(kmeans.cluster_centers_, before)
