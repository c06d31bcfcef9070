"""Moments: means and second moments of a layer's inputs, in one network or in two."""

from __future__ import annotations

import torch
from torch import Tensor

from weightcast.inputs.store import Store
from weightcast.least_squares import Metric

RIDGE, LEAST_RIDGE, MOST_RIDGE = 0.2, 0.03, 0.1
"""Of the mean diagonal is added to C: this times inputs over rows, within the bounds."""

MOST_INPUTS = 16_383
"""Of a layer whose second moments are looked at: these take 2 GiB, and that several times."""


class Moments:
    """C = E[x^T x] and D = E[x^T x~] of rows x in one network and x~ in another (if ``paired``).

    Batch by batch; no row is kept (merged as in Chan, Golub and LeVeque 1979). Products of rows in
    single precision are made in single precision, for one batch, and summed in double. Layers whose
    bias takes up what is constant have covariances for C and D, others second moments about zero.
    """

    def __init__(self, *, paired: bool = False) -> None:
        self.paired, self.groups, self.n_rows = paired, 1, 0
        self._mean = self._mean_dense = self._own = self._cross = torch.zeros(()).double()

    def update(self, x: Tensor, dense_x: Tensor | None = None) -> None:
        """Take in rows x and x~ (None: x again), (n_rows, n_visible) or with groups in the middle.

        Groups of units have inputs of their own: a convolution's, or an attention's packed
        projection's. A single group stands for all, if other calls have several.
        """
        if len(x) == 0:
            return
        self._mean, own = self._merged(self._mean, x)
        self._own = (own.mT @ own).double().add(self._own)
        if self.paired:
            dense_x = x if dense_x is None else dense_x
            self._mean_dense, other = self._merged(self._mean_dense, dense_x)
            self._cross = (own.mT @ other).double().add(self._cross)
        self.groups, self.n_rows = len(own), self.n_rows + len(x)

    def keep_in(self, store: Store) -> None:
        """Move the sums of products to a store, which may be a file; they can be read as before."""
        self._own, self._cross = (store.put(t, self)() for t in (self._own, self._cross))

    def covariance(self) -> Tensor:
        """The sample covariance of rows in one group, (n_visible, n_visible)."""
        K = self._own[0] / (self.n_rows - 1)
        return (K + K.t()) / 2

    def metric(self, ridge: float | None = None, *, centred: bool = True) -> Metric:
        """C plus ``ridge`` times its mean diagonal; the identity where no input varies."""
        if ridge is None:
            ridge = min(max(RIDGE * self._own.shape[-1] / self.n_rows, LEAST_RIDGE), MOST_RIDGE)
        C = self._second(self._own, self._mean, centred)
        C = (C + C.mT).div_(2)
        diagonal = C.diagonal(dim1=1, dim2=2)
        level = diagonal.mean(dim=1, keepdim=True)
        diagonal.copy_(torch.where(level > 0, diagonal + ridge * level, 1.0))
        return Metric(C)

    def target(self, W: Tensor, metric: Metric, *, centred: bool = True) -> Tensor:
        """W + C^-1 (D - C) W: the weights with which x comes nearest to x~ W.

        (n_units, n_visible), as W. What the inputs do not determine stays as it is in W.
        """
        if not self.paired:
            return W
        D = self._second(self._cross, self._mean_dense, centred)
        change = D - self._second(self._own, self._mean, centred)
        parts = [
            part + metric.solve(group, change[group] @ part.t()).t()
            for group, part in enumerate(W.split(len(W) // self.groups))
        ]
        return torch.cat(parts)

    def bias_shift(self, dense_W: Tensor, W: Tensor) -> Tensor:
        """E[x~] dense_W - E[x] W, (n_units,): what the mean output lacks and the bias adds."""
        mean_dense = self._mean_dense if self.paired else self._mean
        means = (mean_dense, dense_W), (self._mean, W)
        dense, own = (
            (rows.unflatten(0, (self.groups, -1)) @ mean.mT).flatten() for mean, rows in means
        )
        return dense - own

    def _second(self, sums: Tensor, mean: Tensor, centred: bool) -> Tensor:
        """Sums of products of deviations as covariances, or as moments about zero."""
        second = sums / self.n_rows
        return second if centred else torch.baddbmm(second, self._mean.mT, mean)

    def _merged(self, mean: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, (groups, 1, n_visible), of all rows, and deviations whose products are added.

        These are (groups, n_rows + 1, n_visible): the new rows less their own mean and, last, what
        the distance of the two means adds to the sums of products.
        """
        rows = rows.to("cpu", torch.promote_types(rows.dtype, torch.float32))
        rows = rows.unsqueeze(0) if rows.dim() == 2 else rows.transpose(0, 1)
        rows = rows.expand(max(self.groups, len(rows)), -1, -1)
        n, old = rows.shape[1], self.n_rows
        new_mean = rows.mean(dim=1, keepdim=True, dtype=torch.float64)
        shift = new_mean - mean
        last = (shift * (old * n / (old + n)) ** 0.5).to(rows.dtype)
        deviations = torch.cat([rows - new_mean.to(rows.dtype), last], dim=1)
        return mean + shift * (n / (old + n)), deviations
