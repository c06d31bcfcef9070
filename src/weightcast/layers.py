"""Predicted layers: a dense layer's interface around one PredictedWeight.

Each mirrors its dense counterpart: the same arguments first, the same output, and ``.weight`` in
torch's layout; ``from_dense`` and ``to_dense`` lead from one to the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, SharedBases
from weightcast.grid import Grid
from weightcast.patches import extract_patches, pad_input
from weightcast.predicted import Path, PredictedWeight, dense_variance, draw_bias
from weightcast.rule import Rule

Size = int | tuple[int, ...]


class PredictedLayer(PredictedWeight):
    """What all predicted layers share: a rule, a bias, and the way from and to the dense layer.

    ``V`` and ``bias`` are the only parameters (a LowRank dictionary adds its U).

    Args:
        rule: how the weights are predicted.
        n_visible: inputs of one unit.
        n_units: number of units.
        bias: whether the layer has one.
        own_grid: coordinates that the layer knows of its inputs.
        atoms: built earlier, to share bases between layers; None builds them from the rule.
        seed: of the draws of atoms, V and bias, in this order, or their CPU generator.
        statistics: of the layer's inputs, for data-driven dictionaries.
        device: of parameters and buffers.
        dtype: of parameters and buffers, a floating-point type.
    """

    dense_class: ClassVar[type[nn.Module]]
    bias: nn.Parameter | None

    def __init__(
        self,
        rule: Rule,
        n_visible: int,
        n_units: int,
        bias: bool,
        own_grid: Grid | None,
        atoms: Atoms | None,
        seed: int | torch.Generator,
        statistics: InputStatistics | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}: weights need a floating-point type")
        generator = seed
        if not isinstance(generator, torch.Generator):
            generator = torch.Generator().manual_seed(generator)
        if atoms is not None:
            atoms = copy.deepcopy(atoms)  # about to be cast and moved
        else:
            atoms = rule.build(
                n_visible, n_units, grid=own_grid, statistics=statistics, generator=generator
            )
        if atoms.n_visible != n_visible:
            raise ValueError(
                f"the atoms are for {atoms.n_visible} inputs, the layer has {n_visible}"
            )
        with torch.device("cpu"):  # whatever the default device is
            super().__init__(atoms, n_units, path=rule.path)
            self.rule = rule
            self.reset_V(dense_variance(n_visible), generator)
            self.bias = nn.Parameter(draw_bias(n_units, n_visible, generator)) if bias else None
        device = torch.get_default_device() if device is None else device
        self.to(device=device, dtype=dtype)

    @classmethod
    def from_dense(
        cls,
        layer: Any,
        rule: Rule,
        *,
        seed: int = 0,
        statistics: InputStatistics | None = None,
        bases: SharedBases | None = None,
        indices: Tensor | None = None,
        atoms: Atoms | None = None,
    ) -> Self:
        """A predicted layer of the same shape, bias, device, dtype and mode, with V drawn anew.

        Call :meth:`fit` with the dense layer's weight to approximate it instead.

        Args:
            layer: the dense counterpart, such as ``nn.Linear``.
            rule: how to predict its weights.
            seed: of the draws of atoms and V.
            statistics: of the layer's inputs, for data-driven dictionaries.
            bases: bases of other layers, to share with this one.
            indices: (columns, n_atoms) atoms drawn earlier, to rebuild them.
            atoms: built earlier, whole; None builds them from the rule.

        Raises:
            ValueError: what the rule or the dictionary cannot do for this layer.
        """
        weight: Tensor = layer.weight
        n_units = weight.shape[0]
        generator = torch.Generator().manual_seed(seed)
        bases = bases or SharedBases()
        atoms = atoms or rule.build(
            weight[0].numel(),
            n_units,
            grid=layer_grid(layer),
            statistics=statistics,
            generator=generator,
            bases=bases,
            indices=indices,
        )
        make: Any = cls  # the constructors of the concrete layers share these keywords
        predicted = make(
            **cls._dense_arguments(layer),
            bias=layer.bias is not None,
            dictionary=rule.dictionary,
            fraction=rule.fraction,
            columns=rule.columns,
            grid=rule.grid,
            path=rule.path,
            seed=generator,
            atoms=atoms,
            device=weight.device,
            dtype=weight.dtype,
        )
        cast = predicted.atoms.base
        predicted.atoms.base = bases.place(atoms.base, cast, weight.device, weight.dtype)
        predicted.V.requires_grad_(weight.requires_grad)
        if predicted.bias is not None:
            with torch.no_grad():
                predicted.bias.copy_(layer.bias)
            predicted.bias.requires_grad_(layer.bias.requires_grad)
        return predicted.train(layer.training)

    def to_dense(self) -> Any:
        """The dense counterpart, with this layer's weights, bias, device, dtype and mode."""
        # Its own initialisation would be overwritten, and would move the global random state.
        dense: Any = nn.utils.skip_init(
            self.dense_class,
            **self._dense_arguments(self),
            bias=self.bias is not None,
            device=self.V.device,
            dtype=self.V.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.weight)
            dense.weight.requires_grad_(self.V.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    @classmethod
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        """The constructor's arguments that a dense layer and its predicted one share."""
        raise NotImplementedError


class PredictedLinear(PredictedLayer):
    """y = x U V + b, in place of ``nn.Linear``.

    Args:
        in_features: n_visible.
        out_features: n_units.
        bias: whether to learn a bias.
        dictionary: recipe of the static atoms.
        fraction: share of the weights that is learned, in (0, 1].
        columns: groups of units with atoms of their own.
        grid: coordinates of the inputs, such as ``(28, 28)``.
        path: ``auto``, ``factored`` or ``materialised``.
        seed: of the draws of atoms, V and bias.
        statistics: of the inputs, for data-driven dictionaries.
        atoms: built earlier, to share bases; None builds them.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Raises:
        ValueError: what :class:`Rule` or the dictionary refuses, or a dtype that is no float.
    """

    dense_class = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dictionary: Dictionary,
        fraction: float,
        columns: int = 1,
        grid: Grid | Sequence[int] | int | None = None,
        path: Path = "auto",
        seed: int | torch.Generator = 0,
        statistics: InputStatistics | None = None,
        atoms: Atoms | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rule = Rule(dictionary, fraction, columns, grid, path)  # pyright: ignore[reportArgumentType]
        super().__init__(
            rule, in_features, out_features, bias, None, atoms, seed, statistics, device, dtype
        )
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """X U V + b: (..., in_features) to (..., out_features)."""
        return super().forward(x, self.bias)

    @classmethod
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        return {"in_features": layer.in_features, "out_features": layer.out_features}


class _PredictedConv(PredictedLayer):
    """A convolution whose filters are predicted; n_visible = in_channels / groups * kernel size.

    Args:
        in_channels: channels of the input.
        out_channels: n_units.
        kernel_size: extent of a filter, an integer or one per axis.
        stride: as in torch.
        padding: as in torch, ``'same'`` and ``'valid'`` too.
        dilation: as in torch.
        groups: as in torch; all groups share the dictionary.
        bias: whether to learn a bias.
        padding_mode: as in torch.
        dictionary: recipe of the static atoms.
        fraction: share of the weights that is learned, in (0, 1].
        columns: groups of units with atoms of their own.
        grid: of a filter; None takes ``Grid(kernel_size, channels=in_channels // groups)``.
        path: ``auto``, ``factored`` or ``materialised``.
        seed: of the draws of atoms, V and bias.
        statistics: of the patches, for data-driven dictionaries.
        atoms: built earlier; None builds them.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Raises:
        ValueError: what the dense layer, :class:`Rule` or the dictionary refuses.
    """

    n_axes: ClassVar[int]

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
        *,
        dictionary: Dictionary,
        fraction: float,
        columns: int = 1,
        grid: Grid | Sequence[int] | int | None = None,
        path: Path = "auto",
        seed: int | torch.Generator = 0,
        statistics: InputStatistics | None = None,
        atoms: Atoms | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # The dense layer checks its own arguments and spreads integers over the axes.
        dense: Any = self.dense_class(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device="meta",
        )  # fmt: skip
        rule = Rule(dictionary, fraction, columns, grid, path)  # pyright: ignore[reportArgumentType]
        own_grid = layer_grid(dense)
        assert own_grid is not None
        super().__init__(
            rule, own_grid.n_visible, out_channels, bias, own_grid, atoms, seed, statistics,
            device, dtype,
        )  # fmt: skip
        for name, value in self._dense_arguments(dense).items():
            setattr(self, name, value)

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Filters, (out_channels, in_channels / groups, *kernel_size), computed at each access."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return self._weight_rows(self._mixed()).view(shape)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Convolve: (batch, in_channels, *size) or (in_channels, *size), as torch's own."""
        if x.dim() not in (self.n_axes + 1, self.n_axes + 2) or (
            x.shape[-1 - self.n_axes] != self.in_channels
        ):
            raise ValueError(
                f"the input is {tuple(x.shape)}, expected ([batch,] {self.in_channels}, "
                f"{'..., ' * (self.n_axes - 1)}...)"
            )
        if x.dim() == self.n_axes + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        positions = x.shape[0] * math.prod(
            [
                (extent - 1) // step + 1
                for extent, step in zip(x.shape[2:], self.stride, strict=True)
            ]
        )
        x, padding = pad_input(x, self)
        if self._choose_path(positions) == "materialised":
            return self._convolve(x, self.weight, self.bias, padding, self.groups)
        return self._forward_factored(x, padding)

    def _forward_factored(self, x: Tensor, padding: Any) -> Tensor:
        """Convolve with each column's atoms, then mix and combine them by V, group by group."""
        filters = self.atoms.base.rows(self.atoms.indices).unflatten(
            2, (self.in_channels // self.groups, *self.kernel_size)
        )  # (columns, n_atoms, channels, *kernel_size)
        V = torch.cat([A.transpose(0, 1).flatten(1) for A in self._mixed()], dim=1)
        parts = []
        for group, x_group in enumerate(x.chunk(self.groups, dim=1)):
            for units, column in self._segments(group):
                values = self._convolve(x_group, filters[column], None, padding, 1)
                y = V[:, units].t() @ values.flatten(2)  # (batch, units, positions)
                parts.append(y.unflatten(2, tuple(values.shape[2:])))
        y = torch.cat(parts, dim=1)
        if self.bias is None:
            return y
        return y + self.bias.view(-1, *[1] * self.n_axes).to(y.dtype)  # autocast: y is narrower

    def _segments(self, group: int) -> list[tuple[slice, int]]:
        """The runs of units of one group that share a column: (units, column)."""
        size = self.out_channels // self.groups
        segments = []
        for column, units in enumerate(self._unit_slices()):
            start, stop = max(units.start, group * size), min(units.stop, (group + 1) * size)
            if start < stop:
                segments.append((slice(start, stop), column))
        return segments

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, groups: int
    ) -> Tensor:
        functions = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
        convolve: Any = functions[self.n_axes - 1]
        return convolve(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _count_costs(self) -> dict[str, tuple[int, int]]:
        """As for a linear layer, but per output position; every segment convolves with atoms."""
        costs = super()._count_costs()
        fold, _ = costs["factored"]
        segments = sum(len(self._segments(group)) for group in range(self.groups))
        per_atom = segments * self.n_visible + self.n_units
        return costs | {"factored": (fold, self.atoms.n_atoms * per_atom)}

    @classmethod
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        names = (
            "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation",
            "groups", "padding_mode",
        )  # fmt: skip
        return {name: getattr(layer, name) for name in names}


class PredictedConv1d(_PredictedConv):
    """A 1-d convolution with predicted filters, in place of ``nn.Conv1d``.

    Takes the arguments of ``nn.Conv1d`` in its order, then ``dictionary``, ``fraction``,
    ``columns``, ``grid``, ``path``, ``seed``, ``statistics``, ``device`` and ``dtype`` by name, as
    :class:`PredictedLinear` does. The grid of a filter is ``Grid(kernel_size,
    channels=in_channels // groups)`` unless one is given. What torch, the rule or the dictionary
    refuses is a ValueError.
    """

    dense_class = nn.Conv1d
    n_axes = 1


class PredictedConv2d(_PredictedConv):
    """A 2-d convolution with predicted filters, in place of ``nn.Conv2d``.

    Takes the arguments of ``nn.Conv2d`` in its order, then ``dictionary``, ``fraction``,
    ``columns``, ``grid``, ``path``, ``seed``, ``statistics``, ``device`` and ``dtype`` by name, as
    :class:`PredictedLinear` does. The grid of a filter is ``Grid(kernel_size,
    channels=in_channels // groups)`` unless one is given. What torch, the rule or the dictionary
    refuses is a ValueError.
    """

    dense_class = nn.Conv2d
    n_axes = 2


class PredictedConv3d(_PredictedConv):
    """A 3-d convolution with predicted filters, in place of ``nn.Conv3d``.

    Takes the arguments of ``nn.Conv3d`` in its order, then ``dictionary``, ``fraction``,
    ``columns``, ``grid``, ``path``, ``seed``, ``statistics``, ``device`` and ``dtype`` by name, as
    :class:`PredictedLinear` does. The grid of a filter is ``Grid(kernel_size,
    channels=in_channels // groups)`` unless one is given. What torch, the rule or the dictionary
    refuses is a ValueError.
    """

    dense_class = nn.Conv3d
    n_axes = 3


PREDICTED: dict[type[nn.Module], type[PredictedLayer]] = {
    layer.dense_class: layer
    for layer in (PredictedLinear, PredictedConv1d, PredictedConv2d, PredictedConv3d)
}
"""The predicted layer of every dense class that can be converted."""


def layer_grid(layer: nn.Module) -> Grid | None:
    """The coordinates that a dense layer knows of its inputs: a convolution's filter grid."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Grid(layer.kernel_size, channels=layer.in_channels // layer.groups)
    return None


def layer_rows(layer: nn.Module, x: Tensor) -> Tensor:
    """The rows that a dense layer multiplies by W: (n_rows, n_visible).

    Args:
        layer: ``nn.Linear`` or ``nn.ConvNd``.
        x: the layer's input; a convolution's patches become rows, one per output position (and
            group).
    """
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return extract_patches(x, layer)
    return x.reshape(-1, x.shape[-1])
