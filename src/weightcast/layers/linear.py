"""PredictedLinear: y = x U V + b, in place of ``nn.Linear``."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.layer import LayerOptions, PredictedLayer
from weightcast.layers.view import View


class LinearView(View[nn.Linear]):
    """A linear layer: torch's weight W^T has one unit's filter in each row."""

    size_arguments = ("in_features", "out_features")


class PredictedLinear(PredictedLayer):
    """y = x U V + b, in place of ``nn.Linear``.

    Args:
        in_features: n_visible.
        out_features: n_units.
        bias: whether to learn a bias.
        options: ``dictionary``, ``fraction`` and the others of
            :class:`~weightcast.layers.LayerOptions`.

    Raises:
        ValueError: what :class:`Rule` or the dictionary refuses, or a dtype that is no float.
    """

    dense_class = nn.Linear
    view_class = LinearView

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, **options)
        self.in_features, self.out_features = in_features, out_features

    @override
    def added_to(self, y: Tensor, *inputs: object, **options: object) -> Tensor:
        (x,) = (*inputs, *options.values())
        added = self.added_into(y, x) if isinstance(x, Tensor) else None
        return PredictedLayer.added_to(self, y, *inputs, **options) if added is None else added

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x U V + b: (..., in_features) to (..., out_features)."""
        return super().forward(input, self.bias)


class TransposedLinearView(View):
    """transformers' ``Conv1D``, whose weight is W and not W^T."""

    size_arguments = ("nx", "nf")
    bias_argument = False

    @override
    def to_filters(self, weight: Tensor) -> Tensor:
        return weight.t()

    @override
    def to_weight(self, filters: Tensor) -> Tensor:
        return filters.t()

    @override
    def new_dense(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):
            return Conv1D(**self.arguments()).to(dtype).to_empty(device=device)


class PredictedTransposedLinear(PredictedLayer):
    """y = x U V + b, in place of transformers' ``Conv1D``, whose weight is W and not W^T.

    Args:
        nf: n_units.
        nx: n_visible.
        options: as for :class:`PredictedLinear`.
    """

    view_class = TransposedLinearView

    def __init__(self, nf: int, nx: int, **options: Unpack[LayerOptions]) -> None:
        # transformers draws weights of standard deviation 0.02, and no bias.
        super().__init__(nx, nf, bias=True, variance=0.02**2, **options)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.nf, self.nx = nf, nx

    added_to = PredictedLinear.added_to

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x U V + b: (..., nx) to (..., nf)."""
        return super().forward(x, self.bias)
