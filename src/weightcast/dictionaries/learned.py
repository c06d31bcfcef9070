"""Dictionaries learned by a single-layer unsupervised model of the layer's inputs.

References: Denil et al. 2013, section 3.3; Coates, Lee and Ng 2011 for k-means features.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.estimators import synthesis_atoms
from weightcast.dictionaries.input_site import Need, Site
from weightcast.dictionaries.mixing import orthonormal_mixing
from weightcast.dictionaries.operators import DenseBase
from weightcast.dictionaries.selection import deal_leading, deal_random
from weightcast.dictionaries.spectra import eigenvectors, leading_atoms
from weightcast.kernels import importing_sklearn


class _Features(Dictionary):
    """What all learned features share: each column draws n_atoms of them."""

    mixing: Literal["raw", "orthonormal"]
    n_features: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_features is not None and self.n_features < 1:
            raise ValueError(f"n_features is {self.n_features}: it must be at least 1, or None")

    @abstractmethod
    def _features(self, site: Site) -> Tensor:
        """Learn the features, (n_features, n_visible) float64."""

    def build(self, site: Site) -> Atoms:
        """Learn features, then draw columns from them; see :meth:`Dictionary.build`."""
        features = self._features(site)
        check_enough(self, site.n_atoms, len(features))
        if not bool(features.isfinite().all()):
            raise ValueError(
                f"{type(self).__name__} learned NaN or infinite features: scale the inputs down, "
                "or take a smaller learning rate"
            )
        base = DenseBase(features)
        indices = site.choose(lambda: self._draw(site, len(features)))
        M = orthonormal_mixing(base.rows(indices)) if self.mixing == "orthonormal" else None
        return Atoms(base, indices, M)

    def _draw(self, site: Site, n_features: int) -> Tensor:
        return deal_random(n_features, site.n_atoms, site.columns, site.generator)


@dataclass(frozen=True)
class PCA(Dictionary):
    """Principal components of the layer's inputs: leading eigenvectors of cov(x), orthonormal.

    Needs ``inputs``.

    Args:
        whiten: scale each component by the inverse root of its variance plus ``ridge``, so that
            all projections of the input have about unit variance.
        ridge: variance added before the inverse root, in units of the inputs' mean variance.

    Raises:
        ValueError: a ridge below 0; to be whitened, inputs that do not vary.
    """

    whiten: bool = False
    ridge: float = 1e-3
    needs: ClassVar[tuple[Need, ...]] = ("covariance",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(f"ridge is {self.ridge}: it must be at least 0 and finite")

    def build(self, site: Site) -> Atoms:
        """Eigenvectors of the site's covariance; see :meth:`Dictionary.build`."""
        check_enough(self, site.n_atoms, site.n_visible)
        K, n_dealt = site.require(self, "covariance"), site.columns * site.n_atoms
        variances, vectors = eigenvectors(K, n_dealt)
        if self.whiten:
            scales = (variances + self.ridge * K.diagonal().mean()).rsqrt()
            if not bool(scales.isfinite().all()):
                raise ValueError(
                    f"PCA cannot whiten {int((~scales.isfinite()).sum())} of {len(scales)} "
                    "directions in which the inputs do not vary: pass inputs that differ, or a "
                    "ridge above 0"
                )
            vectors = vectors * scales
        if n_dealt > site.n_visible:
            return Atoms(*leading_atoms(vectors, site))
        # No atom is dealt twice: they lie as the columns take them, so that nothing is gathered.
        dealt = deal_leading(torch.arange(n_dealt), site.n_atoms, site.columns)
        indices = site.choose(lambda: torch.arange(n_dealt).view(dealt.shape))
        return Atoms(DenseBase(vectors[:, dealt.flatten()].t()), indices)


@dataclass(frozen=True)
class KMeans(_Features):
    """Centres of k-means on whitened inputs (Coates, Lee and Ng 2011).

    An atom is a centre c, taken back through the whitening: x . (ZCA c). Needs ``inputs``.

    Args:
        n_features: number of clusters; None takes the number of inputs.
        whitening: added to each variance before whitening; in units of the inputs' variance.
        mixing: ``raw``, or ``orthonormal`` within each column.

    Raises:
        ValueError: fewer rows in the sample than clusters, counts below 1.
    """

    n_features: int | None = None
    whitening: float = 0.1
    mixing: Literal["raw", "orthonormal"] = "raw"
    needs: ClassVar[tuple[Need, ...]] = ("covariance", "sample")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.whitening > 0 and math.isfinite(self.whitening)):
            raise ValueError(f"whitening is {self.whitening}: it must be positive and finite")

    def _features(self, site: Site) -> Tensor:
        sample = site.require(self, "sample")
        n_features = self.n_features or site.n_visible
        if len(sample) < n_features:
            raise ValueError(
                f"KMeans with {n_features} clusters needs at least as many input rows, got "
                f"{len(sample)}: pass more inputs or a smaller n_features"
            )
        variances, vectors = eigenvectors(site.require(self, "covariance"))
        zca = vectors @ torch.diag((variances + self.whitening).rsqrt()) @ vectors.t()
        seed = int(torch.randint(2**31, (1,), generator=site.generator))
        options: dict[str, Any] = {"n_init": 1, "max_iter": 50, "random_state": seed}
        with importing_sklearn():
            from sklearn import cluster
        model = cluster.KMeans(n_features, **options)
        model.fit(((sample - sample.mean(dim=0)) @ zca).numpy())
        return torch.from_numpy(model.cluster_centers_) @ zca


@dataclass(frozen=True)
class Autoencoder(_Features):
    """Features of a tied-weight autoencoder: h = sigmoid(x F^T + b), x' = h F + c.

    Trained on the layer's inputs with Adam, then fixed. Needs ``inputs``.

    Args:
        n_features: hidden units; None takes the number of inputs (the authors took 1000).
        epochs: passes over the sample.
        learning_rate: Adam's step size.
        batch_size: rows per step.
        mixing: ``raw``, or ``orthonormal`` within each column.

    Raises:
        ValueError: counts below 1, a learning rate that is not positive.

    References: Denil et al. 2013, section 3.3.
    """

    n_features: int | None = None
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 100
    mixing: Literal["raw", "orthonormal"] = "raw"
    needs: ClassVar[tuple[Need, ...]] = ("sample",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.epochs, self.batch_size) < 1 or not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, learning_rate="
                f"{self.learning_rate}: each must be positive"
            )

    def _features(self, site: Site) -> Tensor:
        sample = site.require(self, "sample")
        n_features = self.n_features or site.n_visible
        generator, shape = site.generator, (n_features, site.n_visible)
        features = torch.randn(shape, generator=generator, dtype=torch.float64)
        features = (features / site.n_visible**0.5).requires_grad_()
        hidden_bias = torch.zeros(n_features, dtype=torch.float64, requires_grad=True)
        visible_bias = sample.mean(dim=0).requires_grad_()
        optimiser = torch.optim.Adam([features, hidden_bias, visible_bias], self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.randperm(len(sample), generator=generator)
                for rows in order.split(self.batch_size):
                    x = sample[rows]
                    h = torch.sigmoid(x @ features.t() + hidden_bias)
                    loss = (h @ features + visible_bias - x).square().sum(dim=1).mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
        return features.detach()


@dataclass(frozen=True, eq=False)
class FromEstimator(_Features):
    """Atoms of any fitted scikit-learn estimator whose synthesis map is affine.

    The atoms are the rows of ``inverse_transform(I) - inverse_transform(0)``, or else
    ``components_`` or ``cluster_centers_`` where these are what synthesises an input. The estimator
    must have been fitted on as many features as the layer has inputs.

    Args:
        estimator: fitted.
        selection: ``random`` atoms, or ``leading``: in the estimator's own order.
        mixing: ``raw``, or ``orthonormal`` within each column.

    Raises:
        ValueError: not fitted, another number of features, no affine synthesis map.
    """

    estimator: Any
    selection: Literal["random", "leading"] = "random"
    mixing: Literal["raw", "orthonormal"] = "raw"

    def _features(self, site: Site) -> Tensor:
        return synthesis_atoms(self.estimator, site.n_visible)

    def _draw(self, site: Site, n_features: int) -> Tensor:
        if self.selection == "leading":
            return deal_leading(torch.arange(n_features), site.n_atoms, site.columns)
        return super()._draw(site, n_features)

    def to_json_data(self) -> dict[str, object]:
        """An estimator is an arbitrary object: refuse to write it as text."""
        raise ValueError(
            "FromEstimator holds a fitted estimator, which has no JSON form: keep such a plan in "
            "Python; saved models store the atoms themselves"
        )
