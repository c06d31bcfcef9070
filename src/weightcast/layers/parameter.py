"""PredictedParameter: W = U V in place of an ``nn.Parameter`` that its module reads itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.layer import LayerOptions, PredictedLayer
from weightcast.layers.view import Refusal, View
from weightcast.weight import ExecutionPath


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

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.weight.shape)

    def forward(self, x: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """x W: (..., n_visible) to (..., n_units), by all matrices.

        An attention's packed projection takes queries x, keys and values where these differ, each
        for a third of the units, as rows side by side.
        """
        return _multiply(x, key, value, ParameterView(self, PredictedParameter).filters())

    def extra_repr(self) -> str:
        """Shape, for printed models."""
        return f"{self.shape}, transposed={self.transposed}"


class ParameterView(View[DenseParameter]):
    """A weight of one matrix or several: a unit is one output of one of them."""

    attributes = ("shape", "transposed", "variance", "hidden_inputs")
    bias_argument = False

    @override
    def to_filters(self, weight: Tensor) -> Tensor:
        """(n_units, n_visible) over all matrices."""
        weight = weight.transpose(-2, -1) if self.layer.transposed else weight
        return weight.reshape(-1, weight.shape[-1])

    @override
    def to_weight(self, filters: Tensor) -> Tensor:
        *matrices, one, two = self.layer.shape
        if not self.layer.transposed:
            return filters.view(self.layer.shape)
        return filters.view(*matrices, two, one).transpose(-2, -1)

    @override
    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """Rows of all inputs, each once; side by side those of queries, keys and values."""
        if side_by_side and len(inputs) > 1:
            return _side_by_side(inputs)
        different = {id(x): x for x in inputs}
        return torch.cat([x.reshape(-1, x.shape[-1]) for x in different.values()])

    @property
    @override
    def blindness(self) -> Refusal | None:
        """As the module that holds the weight says."""
        hidden = self.layer.hidden_inputs
        return None if hidden is None else Refusal(hidden)

    @property
    @override
    def dense_multiply_adds(self) -> int:
        """A row is multiplied by one of the matrices."""
        return self.layer.shape[-1] * self.layer.shape[-2]

    @override
    def new_dense(self, device: torch.device, dtype: torch.dtype) -> DenseParameter:
        weight = nn.Parameter(torch.empty(self.layer.shape, device=device, dtype=dtype))
        _, *others = self.arguments().values()
        return DenseParameter(weight, *others)


class PredictedParameter(PredictedLayer):
    """W = U V of a module that reads its weight itself, computed once for each of its calls.

    All matrices share the dictionary, and n_units counts the units of all. ``shape`` is the
    weight's; other arguments as for :class:`DenseParameter` and :class:`PredictedLinear`, where
    ``path`` has no effect on the module's calls.
    """

    dense_class = DenseParameter
    view_class = ParameterView

    def __init__(
        self,
        shape: Sequence[int],
        transposed: bool = False,
        variance: float | None = None,
        hidden_inputs: str | None = None,
        **options: Unpack[LayerOptions],
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
        return _multiply(x, key, value, self.view.filters())

    @override
    def multiply_adds(self, batch: int, path: ExecutionPath = "auto") -> int:
        """Those of W once, and of the dense product for each row."""
        return self._costs["materialised"].once + batch * self.view.dense_multiply_adds


def _multiply(x: Tensor, key: Tensor | None, value: Tensor | None, W: Tensor) -> Tensor:
    """x by all units, or queries, keys and values each by a third of them."""
    if key is None or value is None:
        return nn.functional.linear(x, W)
    parts = _side_by_side((x, key, value)).chunk(3, dim=1), W.chunk(3)
    return torch.cat([rows @ units.t() for rows, units in zip(*parts, strict=True)], dim=1)


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    """(n_rows, n_inputs * n_visible): shorter inputs are repeated."""
    rows = [x.reshape(-1, x.shape[-1]) for x in inputs]
    places = torch.arange(max(map(len, rows)), device=rows[0].device)
    return torch.cat([x[places % max(1, len(x))] for x in rows], dim=1)
