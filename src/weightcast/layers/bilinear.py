"""PredictedBilinear: y = x_1^T A x_2 + b, in place of ``nn.Bilinear``."""

from __future__ import annotations

import math
from typing import Unpack

from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.layer import LayerOptions, PredictedLayer, full_precision
from weightcast.layers.view import View
from weightcast.weight import PredictedWeight


class BilinearView(View[nn.Bilinear]):
    """A bilinear layer: a unit's filter is a matrix, one entry for each product of two inputs."""

    attributes = ("in1_features", "in2_features", "out_features")

    @override
    def to_weight(self, filters: Tensor) -> Tensor:
        return filters.view(self.stated_shape)

    @property
    @override
    def stated_shape(self) -> tuple[int, ...]:
        return self.layer.out_features, self.layer.in1_features, self.layer.in2_features

    @override
    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """All products of the two inputs' entries: (n_rows, in1_features * in2_features)."""
        one, two = (x.reshape(-1, x.shape[-1]) for x in inputs)
        return (one.unsqueeze(2) * two.unsqueeze(1)).flatten(1)


class PredictedBilinear(PredictedLayer):
    """y_u = x_1^T A_u x_2 + b_u, in place of ``nn.Bilinear``.

    A unit's filter is its matrix A_u, with one entry for each product of an entry of x_1 and one of
    x_2: n_visible = in1_features * in2_features.

    Args:
        in1_features: length of x_1.
        in2_features: length of x_2.
        out_features: n_units.
        bias: whether to learn a bias.
        options: as for :class:`PredictedLinear`.
    """

    dense_class = nn.Bilinear
    view_class = BilinearView

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            in1_features * in2_features, out_features, bias=bias, fan_in=in1_features, **options
        )
        self.in1_features, self.in2_features = in1_features, in2_features
        self.out_features = out_features

    @override
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input1: Tensor, input2: Tensor
    ) -> Tensor:
        """(..., in1_features) and (..., in2_features) to (..., out_features)."""
        widths = (self.in1_features, self.in2_features)
        if input1.shape[:-1] != input2.shape[:-1] or (input1.shape[-1], input2.shape[-1]) != widths:
            raise ValueError(
                f"the inputs are {tuple(input1.shape)} and {tuple(input2.shape)}, expected "
                f"(..., {widths[0]}) and (..., {widths[1]}) with equal leading axes"
            )
        n_rows = math.prod(input1.shape[:-1])  # numel would fix it in a traced graph
        if self.choose_path(n_rows) == "materialised":
            return nn.functional.bilinear(input1, input2, self.multiply_out(), self.bias)
        rows = self.view.input_rows(input1, input2)
        with full_precision(rows):  # as torch's own function is
            y = PredictedWeight.forward(self, rows, self.bias)
        return y.view(*input1.shape[:-1], self.out_features)
