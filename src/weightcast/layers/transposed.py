"""Predicted transposed convolutions, in place of ``nn.ConvTranspose1d``, ``2d`` and ``3d``."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.convolution import ConvolutionView, PredictedConvolution, Size
from weightcast.layers.layer import LayerOptions
from weightcast.layers.patches import Padding, extract_transposed_patches


class TransposedConvolutionView(ConvolutionView):
    """A transposed convolution, whose weight has its input channels first."""

    attributes = (*ConvolutionView.attributes, "output_padding")

    @override
    def to_filters(self, weight: Tensor) -> Tensor:
        """(n_units, n_visible): every output channel's filter."""
        filters = weight.unflatten(0, (self.layer.groups, -1)).transpose(1, 2)
        return filters.reshape(self.layer.out_channels, -1)

    @override
    def to_weight(self, filters: Tensor) -> Tensor:
        layer = self.layer
        shape = (layer.in_channels // layer.groups, *layer.kernel_size)
        grouped = filters.view(layer.groups, -1, *shape)  # groups, units, channels
        return grouped.transpose(1, 2).flatten(0, 1)

    @property
    @override
    def stated_shape(self) -> tuple[int, ...]:
        layer = self.layer
        return layer.in_channels, layer.out_channels // layer.groups, *layer.kernel_size

    @override
    def patches(self, x: Tensor) -> Tensor:
        """The patch of every output position, zeros between the inputs included."""
        return extract_transposed_patches(x, self.layer)


class PredictedTransposedConvolution(PredictedConvolution):
    """A transposed convolution whose filters are predicted.

    A unit is an output channel, and its filter is W[:, unit], over the input channels of its group
    and the kernel: n_visible = in_channels / groups * kernel size, as for a convolution, although
    torch's weight has its input channels first. Takes torch's arguments in torch's order and
    meaning.

    Args:
        options: as for :class:`PredictedLinear`.
    """

    view_class = TransposedConvolutionView
    output_padding: tuple[int, ...]
    padding: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        dense: Any = self.dense_class(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device="meta",
        )  # fmt: skip
        self._imitate(dense, options)

    @override
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve transposed: ([batch,] in_channels, *size), as torch's own.

        ``output_size`` chooses among the sizes that the stride allows.
        """
        if self._has_no_batch(input):
            return self.forward(input.unsqueeze(0), output_size).squeeze(0)
        torchs: Any = self.dense_class  # which knows how sizes follow
        padding = torchs._output_padding(
            self, input, output_size, self.stride, self.padding, self.kernel_size, self.n_axes,
            self.dilation,
        )  # fmt: skip
        return self._convolve(input, padding, input.shape[0] * math.prod(input.shape[2:]))

    @override
    def _filter(
        self, x: Tensor, filters: Tensor, bias: Tensor | None, padding: Padding, groups: int
    ) -> Tensor:
        convolve = getattr(nn.functional, f"conv_transpose{self.n_axes}d")
        return convolve(x, filters, bias, self.stride, self.padding, padding, groups, self.dilation)

    @override
    def _atom_filters(self, filters: Tensor) -> Tensor:
        return filters.transpose(0, 1)

    @property
    @override
    def _outputs_per_position(self) -> int:
        return math.prod(self.stride)


class PredictedConvTranspose1d(PredictedTransposedConvolution):
    """For ``nn.ConvTranspose1d``; arguments as for :class:`PredictedTransposedConvolution`."""

    dense_class = nn.ConvTranspose1d


class PredictedConvTranspose2d(PredictedTransposedConvolution):
    """For ``nn.ConvTranspose2d``; arguments as for :class:`PredictedTransposedConvolution`."""

    dense_class = nn.ConvTranspose2d


class PredictedConvTranspose3d(PredictedTransposedConvolution):
    """For ``nn.ConvTranspose3d``; arguments as for :class:`PredictedTransposedConvolution`."""

    dense_class = nn.ConvTranspose3d
