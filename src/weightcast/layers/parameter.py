"""PredictedParameter: a weight that the module around it reads, in place of an ``nn.Parameter``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.layer import PredictedLayer


class DenseParameter(nn.Module):
    """A weight of a module that reads it itself, as a layer of its own.

    Args:
        weight: (n_units, n_visible), or (n_matrices, n_units_each, n_visible): a matrix, or one for
            each of several experts, as ``nn.functional.linear`` takes them.
        transposed: each matrix is (n_visible, n_units) instead.
        variance: of the entries that its module draws; None takes that of ``nn.Linear``.
        hidden_inputs: why no dictionary can be made of its inputs, if so.
    """

    weight: nn.Parameter

    def __init__(
        self,
        weight: nn.Parameter,
        transposed: bool = False,
        variance: float | None = None,
        hidden_inputs: str | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, None
        self.transposed, self.variance = transposed, variance
        self.hidden_inputs = hidden_inputs

    def forward(self, x: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """X W: (..., n_visible) to (..., n_units), by all matrices.

        Of the packed projection of an attention x are the queries where keys and values differ.
        Each then meets a third of the units, and they become rows side by side.
        """
        return _multiply(x, key, value, PredictedParameter.unit_rows(self, self.weight))

    def extra_repr(self) -> str:
        """Shape, for printed models."""
        return f"{tuple(self.weight.shape)}, transposed={self.transposed}"


class PredictedParameter(PredictedLayer):
    """W = U V of a module that reads its weight itself, computed once for each of its calls.

    Args:
        shape: (n_units, n_visible), or (n_matrices, n_units_each, n_visible): all matrices share
            the dictionary, and n_units counts the units of all.
        transposed: each matrix is (n_visible, n_units) instead.
        variance: of the entries that the module draws; None takes that of ``nn.Linear``.
        hidden_inputs: why no dictionary can be made of its inputs, if so.
        options: how to predict: ``dictionary``, ``fraction`` and what else
            :class:`PredictedLinear` takes by name. ``path`` has no effect on the module's calls.

    Raises:
        ValueError: what :class:`Rule` or the dictionary refuses.
    """

    dense_class = DenseParameter

    def __init__(
        self,
        shape: Sequence[int],
        transposed: bool = False,
        variance: float | None = None,
        hidden_inputs: str | None = None,
        **options: Any,
    ) -> None:
        *matrices, n_units, n_visible = shape
        if transposed:
            n_units, n_visible = n_visible, n_units
        n_matrices = torch.Size(matrices).numel()
        super().__init__(n_visible, n_matrices * n_units, bias=False, variance=variance, **options)
        self.shape, self.transposed = tuple(shape), transposed
        self.variance, self.hidden_inputs = variance, hidden_inputs

    @override
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, key: Tensor | None = None, value: Tensor | None = None
    ) -> Tensor:
        """As :meth:`DenseParameter.forward`."""
        if key is None or value is None:
            return super().forward(x)
        return _multiply(x, key, value, self.unit_rows(self, self.weight))

    @classmethod
    @override
    def input_rows(cls, layer: Any, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """Rows of all that is given, each once; side by side those of queries, keys and values.

        Those of one row then have nothing to do with one another: they meet different units.
        """
        if side_by_side and len(inputs) > 1:
            return _side_by_side(inputs)
        different = {id(x): x for x in inputs}
        return torch.cat([x.reshape(-1, x.shape[-1]) for x in different.values()])

    @classmethod
    @override
    def unit_rows(cls, layer: Any, W: Tensor) -> Tensor:
        """(n_units, n_visible) over all matrices."""
        W = W.transpose(-2, -1) if layer.transposed else W
        return W.reshape(-1, W.shape[-1])

    @override
    def _torch_layout(self, rows: Tensor) -> Tensor:
        *matrices, one, two = self.shape
        if not self.transposed:
            return rows.view(self.shape)
        return rows.view(*matrices, two, one).transpose(-2, -1)

    @classmethod
    @override
    def data_refusal(cls, layer: Any) -> str | None:
        """What the module that holds the weight knows of its inputs."""
        return layer.hidden_inputs

    @classmethod
    @override
    def dense_multiply_adds(cls, layer: Any) -> int:
        """A row is multiplied by one of the matrices."""
        shape = layer.shape if isinstance(layer, cls) else layer.weight.shape
        return shape[-1] * shape[-2]

    @override
    def multiply_adds(self, batch: int, path: Any = "auto") -> int:
        """W once, then the dense products; see :meth:`PredictedWeight.multiply_adds`."""
        return self._costs["materialised"].once + batch * self.dense_multiply_adds(self)

    @override
    def _new_dense(self) -> DenseParameter:
        weight = nn.Parameter(torch.empty(self.shape, device=self.V.device, dtype=self.V.dtype))
        return DenseParameter(weight, self.transposed, self.variance, self.hidden_inputs)

    @classmethod
    @override
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        shape = layer.shape if isinstance(layer, cls) else tuple(layer.weight.shape)
        names = ("transposed", "variance", "hidden_inputs")
        return {"shape": shape} | {name: getattr(layer, name) for name in names}


def _multiply(x: Tensor, key: Tensor | None, value: Tensor | None, W: Tensor) -> Tensor:
    """x by all units, or queries, keys and values each by a third of them."""
    if key is None or value is None:
        return nn.functional.linear(x, W)
    parts = _side_by_side((x, key, value)).chunk(3, dim=1), W.chunk(3)
    return torch.cat([rows @ units.t() for rows, units in zip(*parts, strict=True)], dim=1)


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    """(n_rows, n_inputs * n_visible): shorter inputs are gone through again and again."""
    rows = [x.reshape(-1, x.shape[-1]) for x in inputs]
    places = torch.arange(max(map(len, rows)), device=rows[0].device)
    return torch.cat([x[places % max(1, len(x))] for x in rows], dim=1)
