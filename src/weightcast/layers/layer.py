"""PredictedLayer: a rule and a bias around one PredictedWeight, and the way to and from dense."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, SharedBases
from weightcast.grid import Grid
from weightcast.layers.rule import Rule
from weightcast.weight import Path, PredictedWeight, dense_variance, draw_bias


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Within, autocast is off: for what stands in for an operation that autocast leaves alone.

    Args:
        tensor: on the device in question.
    """
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class PredictedLayer(PredictedWeight):
    """What all predicted layers share: a rule, a bias, and the way from and to the dense layer.

    ``V`` and ``bias`` are the only parameters (a LowRank dictionary adds its U). What a class knows
    of its dense counterpart it says in the class methods below, which take either of the two:
    which numbers of the weight are one unit's filter, which rows the layer multiplies by W, and
    what of the dense layer it cannot do.

    Args:
        n_visible: inputs of one unit.
        n_units: number of units.
        bias: whether the layer has one.
        own_grid: coordinates that the layer knows of its inputs.
        variance: of the entries that the dense layer draws; None takes that of ``nn.Linear``.
        bias_bound: of the bias's uniform draw; None takes that of ``nn.Linear``.
        dictionary: recipe of the static atoms.
        fraction: share of the weights that is learned, in (0, 1].
        columns: groups of units with atoms of their own.
        grid: coordinates of the inputs, in place of the layer's own.
        path: ``auto``, ``factored`` or ``materialised``.
        seed: of the draws of atoms, V and bias, in this order, or their CPU generator; None draws
            neither V nor bias: what they hold is arbitrary, and waits to be loaded.
        statistics: of the layer's inputs, for data-driven dictionaries.
        atoms: built earlier, to share bases between layers; None builds them from the rule.
        device: of parameters and constants.
        dtype: of parameters and constants, a floating-point type.

    Raises:
        ValueError: what :class:`Rule` or the dictionary refuses, or a dtype that is no float.
    """

    dense_class: ClassVar[type[nn.Module]]
    bias: nn.Parameter | None

    def __init__(
        self,
        n_visible: int,
        n_units: int,
        *,
        bias: bool,
        own_grid: Grid | None = None,
        variance: float | None = None,
        bias_bound: float | None = None,
        dictionary: Dictionary,
        fraction: float,
        columns: int = 1,
        grid: Grid | Sequence[int] | int | None = None,
        path: Path = "auto",
        seed: int | torch.Generator | None = 0,
        statistics: InputStatistics | None = None,
        atoms: Atoms | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rule = Rule(dictionary, fraction, columns, grid, path)  # pyright: ignore[reportArgumentType]
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}: weights need a floating-point type")
        generator = seed
        if generator is not None and not isinstance(generator, torch.Generator):
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
            V = None if generator is not None else torch.empty(atoms.n_atoms, n_units, dtype=dtype)
            super().__init__(atoms, n_units, path=rule.path, V=V)
            self.rule = rule
            drawn = torch.zeros(n_units, dtype=torch.float64)
            if generator is not None:
                self.reset_V(dense_variance(n_visible) if variance is None else variance, generator)
                bound = n_visible**-0.5 if bias_bound is None else bias_bound
                drawn = draw_bias(n_units, 1, generator) * bound if bias else drawn
            self.bias = nn.Parameter(drawn) if bias else None
        device = torch.get_default_device() if device is None else device
        self.to(device=device, dtype=dtype)

    @property
    @override
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """W in the dense layer's own layout and dtype, computed anew at each access."""
        with full_precision(self.V):
            return self._torch_layout(self._weight_rows(self._mixed()))

    @override
    def check_weight(self, W: Tensor) -> Tensor:
        """W, in the dense layer's layout, as (n_units, n_visible) float64 on the CPU.

        Raises:
            ValueError: W of another shape, or with NaN or infinite entries.
        """
        return super().check_weight(self.unit_rows(self, W))

    @classmethod
    def unit_rows(cls, layer: Any, W: Tensor) -> Tensor:
        """One row per unit, its filter: (n_units, n_visible).

        Args:
            layer: dense or predicted.
            W: in the dense layer's layout.
        """
        return W.reshape(W.shape[0], -1)

    def _torch_layout(self, rows: Tensor) -> Tensor:
        """The dense layer's layout of (n_units, n_visible) rows, undoing ``unit_rows``."""
        return rows

    @classmethod
    def own_grid(cls, layer: Any) -> Grid | None:
        """The coordinates that a layer, dense or predicted, knows of its inputs."""
        return None

    @classmethod
    def input_rows(cls, layer: Any, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """The rows that a layer multiplies by W: (n_rows, n_visible).

        Args:
            layer: dense or predicted.
            inputs: what the layer is called with.
            side_by_side: put the rows of one position's groups into one row.
        """
        return inputs[0].reshape(-1, inputs[0].shape[-1])

    @classmethod
    def refusal(cls, layer: Any) -> str | None:
        """What of a dense layer cannot be predicted, and the remedy; None if nothing is in the way.

        Args:
            layer: dense.
        """
        shape, told = tuple(layer.weight.shape), cls._told_shape(layer)
        if told not in (None, shape):  # torch may compute with it, but what is new would not fit
            return (
                f"its weight is {shape}, and its attributes say {told}: set them to what the "
                "weight has, or leave the layer dense"
            )
        n_units, _ = cls.unit_rows(layer, torch.empty(shape, device="meta")).shape
        if layer.bias is not None and tuple(layer.bias.shape) != (n_units,):
            return (
                f"its bias is {tuple(layer.bias.shape)}, and its weight has {n_units} units: give "
                "it a bias of as many"
            )
        return None

    @classmethod
    def _told_shape(cls, layer: Any) -> tuple[int, ...] | None:
        """A dense layer's weight's shape by its attributes, where its predicted one reads them."""
        return None

    @classmethod
    def data_refusal(cls, layer: Any) -> str | None:
        """Why no dictionary can be made of a layer's inputs; None if one can.

        Args:
            layer: dense or predicted.
        """
        return None

    @classmethod
    def dense_multiply_adds(cls, layer: Any) -> int:
        """Multiply-adds of the dense layer per row, or per position of a convolution.

        Args:
            layer: dense or predicted.
        """
        if isinstance(layer, PredictedLayer):
            return layer.n_visible * layer.n_units
        return layer.weight.numel()

    @classmethod
    def from_dense(
        cls,
        layer: Any,
        rule: Rule,
        *,
        seed: int | None = 0,
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
            seed: of the draws of atoms and V; None leaves V arbitrary, to be loaded.
            statistics: of the layer's inputs, for data-driven dictionaries.
            bases: bases of other layers, to share with this one.
            indices: (columns, n_atoms) atoms drawn earlier, to rebuild them.
            atoms: built earlier, whole; None builds them from the rule.

        Raises:
            ValueError: what the class, the rule or the dictionary cannot do for this layer.
        """
        if reason := cls.refusal(layer):
            raise ValueError(reason)
        weight: Tensor = layer.weight
        filters = cls.unit_rows(layer, weight)
        n_units, n_visible = filters.shape
        from_weight = rule.dictionary.from_weight
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        bases = bases or SharedBases()
        atoms = atoms or rule.build(
            n_visible,
            n_units,
            grid=cls.own_grid(layer),
            statistics=statistics,
            generator=generator,
            bases=bases,
            indices=indices,
            weight=filters.detach().to("cpu", torch.float64).t() if from_weight else None,
        )
        predicted: Any = cls(
            **cls._dense_arguments(layer),
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
        dense = self._new_dense()
        with torch.no_grad():
            dense.weight.copy_(self.weight)
            dense.weight.requires_grad_(self.V.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    def _new_dense(self) -> Any:
        """A dense counterpart with any weights."""
        # Its own initialisation would be overwritten, and would move the global random state.
        arguments = self._dense_arguments(self)
        device, dtype = self.V.device, self.V.dtype
        return nn.utils.skip_init(self.dense_class, **arguments, device=device, dtype=dtype)

    def tie(self, other: PredictedLayer) -> None:
        """Share V and atoms with a layer of the same units and filters; biases stay apart.

        Args:
            other: predicted by the same rule.
        """
        self.atoms, self.V, self._counted = other.atoms, other.V, None

    def clear_padding(self) -> None:
        """Let units that start at zero do so; there are none but in tables of embeddings."""

    @torch.no_grad()
    def remake(self, *, seed: int = 0, statistics: InputStatistics | None = None) -> None:
        """Make the atoms anew from the rule and draw V anew, in place; the bias stays.

        The layer becomes what :meth:`from_dense` would have made with these arguments. V stays the
        same parameter, so that an optimiser keeps hold of it.

        Args:
            seed: of the draws of atoms and V.
            statistics: of the layer's inputs, for data-driven dictionaries.

        Raises:
            ValueError: what the rule or the dictionary cannot do for this layer.
        """
        fresh = self.from_dense(self.to_dense(), self.rule, seed=seed, statistics=statistics)
        self.atoms, self._counted = fresh.atoms, None
        self.V.copy_(fresh.V)

    @classmethod
    def _sizes(cls, layer: Any) -> tuple[int, int]:
        """n_units and n_visible of a layer, dense or predicted.

        A dense one's by its weight, as torch computes with it: pruning a layer or enlarging a table
        by a new weight leaves its attributes as they were.
        """
        if isinstance(layer, PredictedLayer):
            return layer.n_units, layer.n_visible
        n_units, n_visible = cls.unit_rows(layer, layer.weight).shape
        return n_units, n_visible

    @classmethod
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        """The constructor's arguments that a dense layer and its predicted one share."""
        raise NotImplementedError
