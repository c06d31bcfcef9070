"""The atoms inside a fitted scikit-learn estimator: its synthesis map, where that is affine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# Estimators without an inverse_transform, by the attribute whose rows synthesise an input.
_SYNTHESIS_ATTRIBUTES = {
    "components_": {
        "DictionaryLearning",
        "FactorAnalysis",
        "MiniBatchDictionaryLearning",
        "MiniBatchSparsePCA",
        "SparsePCA",
    },
    "cluster_centers_": {
        "AffinityPropagation",
        "BisectingKMeans",
        "KMeans",
        "MeanShift",
        "MiniBatchKMeans",
    },
}


def synthesis_atoms(estimator: Any, n_visible: int) -> Tensor:
    """Rows a_k of the affine map code -> sum_k code_k a_k + offset, (n_features, n_visible).

    ValueError if it is not fitted, fitted on other features, or has no affine synthesis map.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ValueError(f"{name} is not a fitted estimator: call its fit first") from error
    n_features = getattr(estimator, "n_features_in_", n_visible)
    if n_features != n_visible:
        raise ValueError(
            f"{name} was fitted on {n_features} features, the layer has {n_visible} inputs: fit it "
            f"on rows of {n_visible} features"
        )
    for attribute, names in _SYNTHESIS_ATTRIBUTES.items():
        if name in names and hasattr(estimator, attribute):
            return torch.tensor(np.asarray(getattr(estimator, attribute)), dtype=torch.float64)
    if hasattr(estimator, "inverse_transform"):
        return _from_inverse_transform(estimator, n_visible)
    raise ValueError(
        f"{name} has no inverse_transform, and its attributes do not synthesise an input: use an "
        "estimator such as PCA, FastICA, NMF, DictionaryLearning or KMeans"
    )


def _from_inverse_transform(estimator: Any, n_visible: int) -> Tensor:
    """Rows of inverse_transform(I) - inverse_transform(0), after a test that it is affine."""
    name = type(estimator).__name__

    def synthesise(codes: np.ndarray) -> np.ndarray:
        return np.asarray(estimator.inverse_transform(codes), dtype=np.float64)

    try:
        n_codes = np.asarray(estimator.transform(np.zeros((1, n_visible)))).shape[1]
        offset = synthesise(np.zeros((1, n_codes)))
        atoms = synthesise(np.eye(n_codes)) - offset
        codes = np.random.default_rng(0).standard_normal((8, n_codes))
        predicted, actual = codes @ atoms + offset, synthesise(codes)
    except Exception as error:
        raise ValueError(
            f"{name} has no atoms: its inverse_transform failed on unit codes ({error})"
        ) from error
    if atoms.shape[1] != n_visible or not np.allclose(
        predicted, actual, rtol=1e-4, atol=1e-4 * max(1e-30, np.abs(actual).max())
    ):
        raise ValueError(
            f"the inverse_transform of {name} is not an affine map of the code, so it has no "
            "atoms: use an estimator such as PCA, FastICA, NMF, DictionaryLearning or KMeans"
        )
    return torch.from_numpy(np.ascontiguousarray(atoms))
