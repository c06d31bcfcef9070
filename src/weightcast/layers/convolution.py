"""Predicted convolutions: filters W = U V, in place of ``nn.Conv1d``, ``Conv2d`` and ``Conv3d``."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from typing_extensions import override

from weightcast.grid import Grid
from weightcast.layers.layer import LayerOptions, PredictedLayer
from weightcast.layers.patches import Padding, extract_patches, output_size, pad_input
from weightcast.layers.view import View
from weightcast.weight import Cost, ExecutionPath

Size = int | tuple[int, ...]


class ConvolutionView(View[_ConvNd]):
    """A convolution: a unit is an output channel, and a row is a patch of the input."""

    attributes = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    )  # fmt: skip
    per_position = True

    @property
    @override
    def grid(self) -> Grid:
        """A filter's grid: its kernel, for every channel of its group."""
        layer = self.layer
        return Grid(layer.kernel_size, channels=layer.in_channels // layer.groups)

    @override
    def to_weight(self, filters: Tensor) -> Tensor:
        layer = self.layer
        return filters.view(-1, layer.in_channels // layer.groups, *layer.kernel_size)

    @property
    @override
    def stated_shape(self) -> tuple[int, ...]:
        layer = self.layer
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size

    @override
    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """The patches of the input, one per output position and group."""
        rows = self.patches(inputs[0])
        if not side_by_side:
            return rows
        batch = 1 if inputs[0].dim() == len(self.layer.kernel_size) + 1 else len(inputs[0])
        rows = rows.view(batch, self.layer.groups, -1, rows.shape[-1])
        return rows.transpose(1, 2).flatten(0, 1).flatten(1)

    @property
    @override
    def rows_key(self) -> tuple[Any, ...]:
        geometry = (getattr(self.layer, name) for name in self.attributes if name != "out_channels")
        return type(self), *geometry

    def patches(self, x: Tensor) -> Tensor:
        """(batch * groups * positions, n_visible)."""
        return extract_patches(x, self.layer)


class PredictedConvolution(PredictedLayer):
    """A convolution whose filters are predicted; n_visible = in_channels / groups * kernel size.

    Takes torch's arguments in torch's order and meaning, with n_units = out_channels; all groups
    share the dictionary.

    Args:
        options: as for :class:`PredictedLinear`.
    """

    view_class: ClassVar[type[ConvolutionView]] = ConvolutionView
    n_axes: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        # The dense layer checks its own arguments and spreads integers over the axes.
        dense: Any = self.dense_class(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device="meta",
        )  # fmt: skip
        self._imitate(dense, options)

    def _imitate(self, dense: _ConvNd, options: LayerOptions) -> None:
        """Initialise with a dense layer's sizes and attributes, and with draws of its scale."""
        grid = self.view_class(dense, type(self)).grid
        super().__init__(
            grid.n_visible, dense.out_channels, bias=dense.bias is not None, own_grid=grid,
            fan_in=dense.weight.shape[1:].numel(), **options,
        )  # fmt: skip
        for name in self.view_class.attributes:
            setattr(self, name, getattr(dense, name))
        self.n_axes = len(self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Convolve: (batch, in_channels, *size) or (in_channels, *size), as torch's own."""
        if self._has_no_batch(input):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        positions = input.shape[0] * math.prod(output_size(input.shape[2:], self))
        return self._convolve(*pad_input(input, self), positions)

    def _has_no_batch(self, x: Tensor) -> bool:
        """Whether the input is one example without a batch axis; other shapes are refused."""
        if x.dim() not in (self.n_axes + 1, self.n_axes + 2) or (
            x.shape[-1 - self.n_axes] != self.in_channels
        ):
            raise ValueError(
                f"the input is {tuple(x.shape)}, expected ([batch,] {self.in_channels}, "
                f"{'..., ' * (self.n_axes - 1)}...)"
            )
        return x.dim() == self.n_axes + 1

    @override
    def choose_path(self, batch: int) -> ExecutionPath:
        """As for a linear layer; on a GPU, ``auto`` is always materialised.

        There, depthwise convolutions take much longer than their multiply-adds suggest, and dense
        ones much less: factored steps were 1.3 to 19 times slower (docs/performance.md).
        """
        if self.path == "auto" and self.V.is_cuda:
            return "materialised"
        return super().choose_path(batch)

    def _convolve(self, x: Tensor, padding: Padding, positions: int) -> Tensor:
        """Convolve along the path that takes less time at this many output positions."""
        if self.choose_path(positions) == "materialised":
            filters = self.view.to_weight(self._weight_rows(self._mixed()))
            return self._filter(x, filters, self.bias, padding, self.groups)
        return self._forward_factored(x, padding)

    def _filter(
        self, x: Tensor, filters: Tensor, bias: Tensor | None, padding: Padding, groups: int
    ) -> Tensor:
        """The dense layer's operation with other filters, in torch's layout."""
        return _convolve(x, filters, bias, self.stride, padding, self.dilation, groups)

    def _forward_factored(self, x: Tensor, padding: Padding) -> Tensor:
        """Convolve with the atoms, then mix and combine them by V at every position."""
        V = self.coefficients()
        outputs = []
        for group, channels in enumerate(x.chunk(self.groups, dim=1)):
            for columns, units in self._segments(group):
                values = self._convolve_atoms(channels, columns, padding)
                pointwise = V[:, units].t()[(..., *[None] * self.n_axes)]
                bias = None if self.bias is None else self.bias[units]
                n_columns = columns.stop - columns.start
                outputs.append(_convolve(values, pointwise, bias, groups=n_columns))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _convolve_atoms(self, x: Tensor, columns: slice, padding: Padding) -> Tensor:
        """The atoms of some columns at every position: (batch, columns * n_atoms, *positions)."""
        indices = self.atoms.indices[columns].flatten()
        if self.atoms.stacked is not None:  # mixed already, and so seen first
            filters = self.atoms.stacked[columns]
        elif (parts := self.atoms.base.by_channel(indices)) is not None:
            channel, filters = parts  # each atom looks at one channel: depthwise
            filters = filters.reshape(len(indices), 1, *self.kernel_size)
            return self._filter(x.index_select(1, channel), filters, None, padding, len(channel))
        else:
            filters = self.atoms.base.rows(indices)
        filters = filters.reshape(len(indices), -1, *self.kernel_size)
        return self._filter(x, self._atom_filters(filters), None, padding, 1)

    def _atom_filters(self, filters: Tensor) -> Tensor:
        """Filters of atoms, (n, in_channels / groups, *kernel_size), in torch's layout."""
        return filters

    def _segments(self, group: int) -> list[tuple[slice, slice]]:
        """The columns that one group can compute at once, and their units in it.

        Without groups a run of columns with equally many units; with groups one column, since
        groups and columns divide the units independently.
        """
        if self.groups == 1:
            return [(run.columns, run.units) for run in self._runs]
        size = self.out_channels // self.groups
        segments = []
        for column, units in enumerate(self.unit_slices()):
            start, stop = max(units.start, group * size), min(units.stop, (group + 1) * size)
            if start < stop:
                segments.append((slice(column, column + 1), slice(start, stop)))
        return segments

    def _count_costs(self) -> dict[str, Cost]:
        """As for a linear layer, but per position, and with the atoms as filters."""
        fold, _ = self._mixing_costs()
        segments = [segment for group in range(self.groups) for segment in self._segments(group)]
        n_columns = sum(columns.stop - columns.start for columns, _ in segments)
        combine = self.atoms.n_atoms * self.n_units * self._outputs_per_position
        convolve = n_columns * self.atoms.n_atoms * self.n_visible
        apart = self.atoms.base.by_channel(self.atoms.indices[:1, 0]) is not None
        if self.atoms.stacked is not None or not apart:
            cost = Cost(fold, convolve + combine)
        else:
            taps = convolve // (self.in_channels // self.groups)
            cost = Cost(fold, taps + combine, planes=n_columns * self.atoms.n_atoms)
        return super()._count_costs() | {"factored": cost}

    @property
    def _outputs_per_position(self) -> int:
        """Outputs for each position of the filters."""
        return 1


class PredictedConv1d(PredictedConvolution):
    """In place of ``nn.Conv1d``; arguments as for :class:`PredictedConvolution`."""

    dense_class = nn.Conv1d


class PredictedConv2d(PredictedConvolution):
    """In place of ``nn.Conv2d``; arguments as for :class:`PredictedConvolution`."""

    dense_class = nn.Conv2d


class PredictedConv3d(PredictedConvolution):
    """In place of ``nn.Conv3d``; arguments as for :class:`PredictedConvolution`."""

    dense_class = nn.Conv3d


def _convolve(x: Tensor, filters: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """The convolution that the filters' axes call for."""
    return getattr(nn.functional, f"conv{filters.dim() - 2}d")(x, filters, *arguments, **options)
