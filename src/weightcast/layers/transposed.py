"""Predicted transposed convolutions, in place of ``nn.ConvTranspose1d``, ``2d`` and ``3d``."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from weightcast.layers.convolution import PredictedConvolution, Size, groups_side_by_side
from weightcast.layers.layer import PredictedLayer
from weightcast.layers.patches import extract_transposed_patches


class PredictedTransposedConvolution(PredictedConvolution):
    """A transposed convolution whose filters are predicted.

    A unit is an output channel, and its filter is W[:, unit]: what every input channel of its group
    adds to it, at every place of the kernel. So n_visible = in_channels / groups * kernel size, as
    for a convolution, although torch's weight has its input channels first.

    Args:
        in_channels: channels of the input.
        out_channels: n_units.
        kernel_size: extent of a filter, an integer or one per axis.
        stride: as in torch.
        padding: as in torch.
        output_padding: as in torch.
        groups: as in torch; all groups share the dictionary.
        bias: whether to learn a bias.
        dilation: as in torch.
        padding_mode: ``zeros``, all that torch knows here.
        options: how to predict: ``dictionary``, ``fraction`` and what else
            :class:`PredictedLinear` takes by name.

    Raises:
        ValueError: what the dense layer, :class:`Rule` or the dictionary refuses.
    """

    _facts: ClassVar[tuple[str, ...]] = (*PredictedConvolution._facts, "output_padding")
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
        **options: Any,
    ) -> None:
        dense: Any = self.dense_class(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias,
            dilation, padding_mode, device="meta",
        )  # fmt: skip
        grid = self.own_grid(dense)
        fan_in = dense.weight[0].numel()  # as torch counts it, by the outputs
        PredictedLayer.__init__(
            self, grid.n_visible, out_channels, bias=bias, own_grid=grid,
            variance=1 / (3 * fan_in), bias_bound=fan_in**-0.5, **options,
        )  # fmt: skip
        for name in self._facts:
            setattr(self, name, getattr(dense, name))

    @override
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve transposed, as torch's own.

        Args:
            input: (batch, in_channels, *size) or (in_channels, *size).
            output_size: of the output, where the stride leaves a choice.
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
        self, x: Tensor, filters: Tensor, bias: Tensor | None, padding: Any, groups: int
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

    @classmethod
    @override
    def unit_rows(cls, layer: Any, W: Tensor) -> Tensor:
        """(n_units, n_visible): every output channel's filter."""
        return W.unflatten(0, (layer.groups, -1)).transpose(1, 2).reshape(layer.out_channels, -1)

    @classmethod
    @override
    def _told_shape(cls, layer: Any) -> tuple[int, ...]:
        return layer.in_channels, layer.out_channels // layer.groups, *layer.kernel_size

    @override
    def _torch_layout(self, rows: Tensor) -> Tensor:
        shape = (self.in_channels // self.groups, *self.kernel_size)
        filters = rows.view(self.groups, -1, *shape)  # groups, units, channels
        return filters.transpose(1, 2).flatten(0, 1)

    @classmethod
    @override
    def input_rows(cls, layer: Any, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """What meets the filters at every output position, zeros between the inputs included."""
        rows = extract_transposed_patches(inputs[0], layer)
        return groups_side_by_side(rows, inputs[0], layer) if side_by_side else rows


class PredictedConvTranspose1d(PredictedTransposedConvolution):
    """A 1-d transposed convolution with predicted filters, in place of ``nn.ConvTranspose1d``.

    Arguments as for :class:`PredictedTransposedConvolution`.
    """

    dense_class = nn.ConvTranspose1d
    n_axes = 1


class PredictedConvTranspose2d(PredictedTransposedConvolution):
    """A 2-d transposed convolution with predicted filters, in place of ``nn.ConvTranspose2d``.

    Arguments as for :class:`PredictedTransposedConvolution`.
    """

    dense_class = nn.ConvTranspose2d
    n_axes = 2


class PredictedConvTranspose3d(PredictedTransposedConvolution):
    """A 3-d transposed convolution with predicted filters, in place of ``nn.ConvTranspose3d``.

    Arguments as for :class:`PredictedTransposedConvolution`.
    """

    dense_class = nn.ConvTranspose3d
    n_axes = 3
