"""Second moments of one layer's inputs in two networks, the dense and the compressed one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries.site import InputStatistics, Need
from weightcast.inputs.batches import call, check_finite
from weightcast.inputs.hooks import layer_inputs
from weightcast.inputs.rows import StatisticsAccumulator, thinned
from weightcast.inputs.undisturbed import evaluating
from weightcast.layers import view
from weightcast.layers.rule import layer_seed
from weightcast.least_squares import Metric


class PairedMoments:
    """C = E[x^T x] and D = E[x^T x~] of rows x in the compressed network and x~ in the dense one.

    Batch by batch; no row is kept. Where the layer has a bias, which takes up what is constant,
    both are covariances (merged as in Chan, Golub and LeVeque 1979).

    Args:
        n_visible: inputs of a unit. Rows may hold them several times side by side, for groups of
            units that have moments of their own: a convolution's, or those of an attention's
            packed projection.
        centred: whether the layer has a bias.
        paired: whether x~ is not x.
    """

    def __init__(self, n_visible: int, *, centred: bool, paired: bool) -> None:
        self.n_visible, self.centred, self.paired = n_visible, centred, paired
        self.groups, self.n_rows = 1, 0
        self._mean = self._mean_dense = self._own = self._cross = torch.zeros(())

    def update(self, x: Tensor, dense_x: Tensor | None = None) -> None:
        """Take in rows, (n_rows, groups * n_visible) float64; None stands for the same again."""
        if len(x) == 0:
            return
        n, old = len(x), self.n_rows
        pair = (x, x if dense_x is None else dense_x)
        # Groups come first; one of a call stands for all, by broadcasting, if others have several.
        x, dense_x = (rows.unflatten(1, (-1, self.n_visible)).transpose(0, 1) for rows in pair)
        self.groups = max(self.groups, len(x))
        mean, mean_dense = (self._mean_of(rows) for rows in (x, dense_x))
        x, dense_x = x - mean, dense_x - mean_dense
        shift, shift_dense = mean - self._mean, mean_dense - self._mean_dense
        between = old * n / (old + n)
        self._own = self._own + x.mT @ x + between * shift.mT * shift
        if self.paired:
            self._cross = self._cross + x.mT @ dense_x + between * shift.mT * shift_dense
        self._mean = self._mean + shift * (n / (old + n))
        self._mean_dense = self._mean_dense + shift_dense * (n / (old + n))
        self.n_rows = old + n

    def covariance(self, ridge: float) -> Tensor:
        """C plus ``ridge`` times its mean diagonal, mean over groups: (n_visible, n_visible)."""
        return self.metric(ridge).moments.mean(dim=0)

    def metric(self, ridge: float) -> Metric:
        """C plus ``ridge`` times its mean diagonal; the identity where no input varies."""
        C = (self._own + self._own.mT) / (2 * self.n_rows)
        level = C.diagonal(dim1=1, dim2=2).mean(dim=1).view(-1, 1, 1)
        identity = torch.eye(C.shape[-1], dtype=C.dtype)
        return Metric(torch.where(level > 0, C + ridge * level * identity, identity))

    def target(self, W: Tensor, metric: Metric) -> Tensor:
        """The weights that come nearest to x~ W from x: W + C^-1 (D - C) W.

        What the inputs do not determine stays as it is in W.

        Args:
            W: (n_units, n_visible) of the dense layer.
            metric: :meth:`metric`.
        """
        if not self.paired:
            return W
        change = (self._cross - self._own) / self.n_rows
        size = len(W) // self.groups
        parts = [
            part + metric.solve(group, change[group] @ part.t()).t()
            for group, part in enumerate(W.split(size))
        ]
        return torch.cat(parts)

    def bias_shift(self, dense_W: Tensor, W: Tensor) -> Tensor:
        """What the mean output lacks, E[x~] dense_W - E[x] W, (n_units,), to go to the bias."""
        mean_dense = self._mean_dense if self.paired else self._mean
        means = (mean_dense, dense_W), (self._mean, W)
        dense, own = (
            (rows.unflatten(0, (self.groups, -1)) @ mean.mT).flatten() for mean, rows in means
        )
        return dense - own

    def _mean_of(self, rows: Tensor) -> Tensor:
        """(groups, 1, n_visible)."""
        if self.centred:
            return rows.mean(dim=1, keepdim=True)
        return rows.new_zeros(len(rows), 1, self.n_visible)


def moments_and_statistics(
    model: nn.Module,
    name: str,
    batches: list[Any],
    needs: Sequence[Need],
    seed: int,
    *,
    centred: bool,
    dense_model: nn.Module | None = None,
    dense_layer: nn.Module | None = None,
) -> tuple[PairedMoments, InputStatistics]:
    """Moments and statistics of one layer's inputs.

    Args:
        model: that is run over the batches.
        name: of the layer in it, dense or predicted.
        batches: example inputs.
        needs: which statistics.
        seed: of the draw of rows where there are very many; a layer's depends on its name too.
        centred: whether the layer has a bias.
        dense_model: another model, whose inputs of the layer count too.
        dense_layer: the layer in that one.

    Raises:
        ValueError: inputs that give no statistics, or on which a model fails, naming the layer.
    """
    layer, seed = model.get_submodule(name), layer_seed(seed, name)
    other = layer if dense_layer is None else dense_layer
    n_visible, _ = view(layer).sizes
    moments = PairedMoments(n_visible, centred=centred, paired=dense_model is not None)
    accumulator = StatisticsAccumulator(needs, 10_000, torch.Generator().manual_seed(seed))
    try:
        for x, dense_x in paired_rows(model, layer, dense_model, other, batches, seed):
            moments.update(x, dense_x)
            accumulator.update(x.unflatten(1, (-1, n_visible)).flatten(0, 1))
        return moments, accumulator.result()
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def paired_rows(
    model: nn.Module,
    layer: nn.Module,
    dense_model: nn.Module | None,
    dense_layer: nn.Module,
    batches: Iterable[Any],
    seed: int,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A layer's rows in one network and, where there is another, those in that one, call by call.

    Args:
        model: the one, in evaluation mode and without gradients while it runs.
        layer: dense or predicted, inside it.
        dense_model: the other; None if it is not wanted.
        dense_layer: the layer's counterpart there.
        batches: to run.
        seed: of the draw of rows where there are very many.

    Yields:
        (n_rows, groups * n_visible) float64 on the CPU, twice; None where the two networks do not
        give the layer equally many rows, as experts of a mixture may.
    """
    for number, batch in enumerate(batches):
        draw = layer_seed(seed, f"batch {number}")
        with _recording(layer, draw) as own, evaluating(model):
            call(model, batch)
        others: list[Tensor] = []
        if dense_model is not None:
            with _recording(dense_layer, draw) as others, evaluating(dense_model):
                call(dense_model, batch)
        alike = [rows.shape for rows in own] == [rows.shape for rows in others]
        for rows, other in zip(own, others if alike else [None] * len(own), strict=True):
            yield rows.double(), None if other is None else other.double()


@contextmanager
def _recording(layer: nn.Module, seed: int) -> Iterator[list[Tensor]]:
    """Within, the list fills with the rows of every call of the layer."""
    recorded: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)

    def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rows = view(module).input_rows(
            *layer_inputs(module, arguments, keywords), side_by_side=True
        )
        # A copy: the network may change its input in place later on.
        rows = thinned(rows.detach(), generator).to("cpu", copy=True)
        recorded.append(check_finite(rows))

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield recorded
    finally:
        handle.remove()
