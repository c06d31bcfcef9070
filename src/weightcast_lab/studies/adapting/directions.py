"""Dictionaries that were tried for adapters: each changes one thing of whitened directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from weightcast.dictionaries import Atoms, DenseBase, Dictionary, RandomGaussian, Site
from weightcast.dictionaries.base import check_enough
from weightcast.dictionaries.input_site import Need
from weightcast.dictionaries.selection import deal_leading
from weightcast.dictionaries.singular import leading_filters
from weightcast.dictionaries.spectra import eigenvectors


@dataclass(frozen=True)
class Whitened(Dictionary):
    """Leading directions of the inputs, whitened and dealt to the columns: ``PCA(whiten=True)``.

    Args:
        ridge: added to the variances, in units of their mean.
        power: of the variance, by which a direction is divided; 1/2 whitens.
    """

    ridge: float = 1e-3
    power: float = 0.5
    needs: ClassVar[tuple[Need, ...]] = ("covariance",)

    @override
    def build(self, site: Site) -> Atoms:
        """Directions in the order in which the columns take them."""
        hands = self.hands(site)
        check_enough(self, int(hands.max()) + 1, site.n_visible)
        base = DenseBase(self.directions(site)[:, hands.flatten()].t())
        return Atoms(base, site.choose(lambda: torch.arange(hands.numel()).view(hands.shape)))

    def directions(self, site: Site) -> Tensor:
        """(n_visible, n), the most wanted first."""
        return self.root(site)[0]

    def hands(self, site: Site) -> Tensor:
        """(columns, n_atoms) int64: which directions each column takes."""
        order = torch.arange(site.columns * site.n_atoms)
        return deal_leading(order, site.n_atoms, site.columns)

    def root(self, site: Site) -> tuple[Tensor, Tensor]:
        """R, (n_visible, n_visible), with which x R is white, and R^-1."""
        variances, vectors = eigenvectors(self.second_moment(site))
        scales = (variances + self.ridge * variances.mean()) ** self.power
        return vectors / scales, vectors.t() * scales.unsqueeze(1)

    def second_moment(self, site: Site) -> Tensor:
        """(n_visible, n_visible), of the inputs."""
        return site.require(self, "covariance")


@dataclass(frozen=True)
class AboutZero(Whitened):
    """The second moment is about zero: the inputs' mean is the first direction."""

    needs: ClassVar[tuple[Need, ...]] = ("sample",)

    @override
    def second_moment(self, site: Site) -> Tensor:
        rows = site.require(self, "sample")
        return rows.t() @ rows / len(rows)


@dataclass(frozen=True)
class Minor(Whitened):
    """The directions in which the inputs vary least."""

    @override
    def directions(self, site: Site) -> Tensor:
        return self.root(site)[0].flip(1)


@dataclass(frozen=True)
class Turned(Whitened):
    """Random directions among white inputs."""

    @override
    def directions(self, site: Site) -> Tensor:
        drawn = torch.randn(
            site.n_visible, site.n_visible, generator=site.generator, dtype=torch.float64
        )
        return self.root(site)[0] @ torch.linalg.qr(drawn).Q


@dataclass(frozen=True)
class OfOutputs(Whitened):
    """The directions of white inputs that W0's outputs depend on most."""

    from_weight: ClassVar[bool] = True

    @override
    def directions(self, site: Site) -> Tensor:
        R, inverse = self.root(site)
        W = inverse @ site.require_weight(self)
        return R @ eigenvectors(W @ W.t())[1]


@dataclass(frozen=True)
class OfWeights(Whitened):
    """W0's left singular vectors, whatever the inputs."""

    from_weight: ClassVar[bool] = True

    @override
    def directions(self, site: Site) -> Tensor:
        return leading_filters(site.require_weight(self), site.n_visible)


@dataclass(frozen=True)
class SingleInputs(Whitened):
    """The inputs of most variance, one an atom, scaled to variance 1."""

    @override
    def directions(self, site: Site) -> Tensor:
        variances = self.second_moment(site).diagonal()
        return torch.diag(variances.rsqrt())[:, variances.argsort(descending=True, stable=True)]


@dataclass(frozen=True)
class InBlocks(Whitened):
    """The first column takes the first n_atoms directions, the next one those that follow."""

    @override
    def hands(self, site: Site) -> Tensor:
        return torch.arange(site.columns * site.n_atoms).view(site.columns, site.n_atoms)


@dataclass(frozen=True)
class Mixed(InBlocks):
    """Columns take random mixtures of the leading directions, orthonormal among white inputs.

    Args:
        times: so many columns share each set of directions.
    """

    times: int = 1

    @override
    def directions(self, site: Site) -> Tensor:
        n = site.columns * site.n_atoms // self.times
        drawn = torch.randn(self.times, n, n, generator=site.generator, dtype=torch.float64)
        return torch.cat([*(self.root(site)[0][:, :n] @ torch.linalg.qr(drawn).Q)], dim=1)


@dataclass(frozen=True)
class Part(Whitened):
    """Every third hand of three times as many, so that three layers see different directions.

    Args:
        part: 0, 1 or 2.
    """

    part: int = 0

    @override
    def hands(self, site: Site) -> Tensor:
        return super().hands(replace(site, columns=3 * site.columns))[self.part :: 3]


@dataclass(frozen=True)
class ByClusters(Whitened):
    """Columns are clusters of units with like outputs, not neighbours; each unit has its indices.

    Args:
        clusters: in place of columns.
    """

    clusters: int = 16
    from_weight: ClassVar[bool] = True
    per_unit: ClassVar[bool] = True

    @override
    def build(self, site: Site) -> Atoms:
        """One hand a cluster, by k-means of the filters that white inputs meet."""
        from sklearn.cluster import KMeans

        filters = (self.root(site)[1] @ site.require_weight(self)).t()
        filters = torch.nn.functional.normalize(filters, dim=1)
        seed = int(torch.randint(2**31, (1,), generator=site.generator))
        means = KMeans(self.clusters, n_init="auto", random_state=seed)
        labels = torch.from_numpy(means.fit_predict(filters.numpy())).long()
        atoms = super().build(replace(site, columns=self.clusters))
        return Atoms(atoms.base, atoms.indices[labels])


@dataclass(frozen=True, eq=False)
class OfGradients(Whitened):
    """The directions of white inputs along which the loss falls fastest.

    Args:
        gradients: (n, n_visible, n_units), of the loss by W0 on n sets of examples.
    """

    gradients: Any = None

    @override
    def directions(self, site: Site) -> Tensor:
        R, _ = self.root(site)
        G = R.t() @ self.gradients.double()
        return R @ eigenvectors((G @ G.mT).sum(dim=0))[1]


@dataclass(frozen=True, eq=False)
class OfOwnGradients(InBlocks, OfGradients):
    """The same, each column by the gradient of its own units on all examples."""

    @override
    def directions(self, site: Site) -> Tensor:
        R, _ = self.root(site)
        parts = (R.t() @ self.gradients.double().sum(dim=0)).tensor_split(site.columns, dim=1)
        return R @ torch.cat([leading_filters(part, site.n_atoms) for part in parts], dim=1)


@dataclass(frozen=True)
class Signs(Dictionary):
    """Random signs, for shares of W0: an atom takes a weight up or down by as much as any other."""

    @override
    def build(self, site: Site) -> Atoms:
        """The signs of Gaussian atoms."""
        drawn = RandomGaussian().build(site)
        rows = drawn.base.rows(torch.arange(drawn.base.n_base))
        return Atoms(DenseBase(rows.sign()), drawn.indices)


@dataclass(frozen=True)
class Blocks(Dictionary):
    """Inputs in blocks of equal length, for shares of W0: a unit hears a block louder, or less."""

    @override
    def build(self, site: Site) -> Atoms:
        """An atom is 1 on its block, and 0 elsewhere."""
        owner = torch.arange(site.n_visible) * site.n_atoms // site.n_visible
        base = DenseBase(torch.nn.functional.one_hot(owner).t().double())
        return Atoms(base, site.choose(lambda: torch.arange(site.n_atoms).unsqueeze(0)))
