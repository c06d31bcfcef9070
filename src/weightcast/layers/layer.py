"""PredictedLayer: a PredictedWeight with a rule and a bias, converted from and to a dense layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, SharedBases
from weightcast.grid import Grid
from weightcast.layers.computed_weight import READ_ONLY, guarded
from weightcast.layers.leaf import Leaf
from weightcast.layers.rule import Rule
from weightcast.layers.view import View, plus
from weightcast.weight import ExecutionPath, PredictedWeight, dense_variance, draw_bias


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on a tensor's device, for operations that autocast leaves alone."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class LayerOptions(TypedDict, total=False):
    """Keyword arguments of every predicted layer, besides those of its dense layer.

    Args:
        dictionary: recipe of the static atoms.
        fraction: share of the weights that is learned, in (0, 1].
        n_atoms: in place of a fraction, atoms of each column.
        columns: groups of units with atoms of their own; 1 if left out.
        grid: coordinates of the inputs, such as ``(28, 28)``; a convolution has its own,
            ``Grid(kernel_size, channels=in_channels // groups)``.
        path: ``auto`` (the default), ``factored`` or ``materialised``.
        rule: the six above as one :class:`Rule`, in their place.
        seed: of the draws of atoms, V and bias, in this order, or a CPU generator; 0 if left out.
            With None, V and bias are not drawn: they are arbitrary until they are loaded.
        statistics: of the layer's inputs, for data-driven dictionaries.
        atoms: built earlier, to share bases between layers; None builds them from the rule.
        device: of parameters and constants.
        dtype: of parameters and constants, a floating-point type.
    """

    dictionary: Dictionary
    fraction: float
    n_atoms: int
    columns: int
    grid: Grid | Sequence[int] | int | None
    path: ExecutionPath
    rule: Rule
    seed: int | torch.Generator | None
    statistics: InputStatistics | None
    atoms: Atoms | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class PredictedLayer(Leaf, PredictedWeight):
    """What all predicted layers share: a rule, a bias, and conversion from and to the dense layer.

    ``V`` and ``bias`` are the only parameters (a LowRank dictionary adds its U). The class's
    :class:`View` knows the dense layer and its geometry.

    Args:
        n_visible: inputs of one unit.
        n_units: number of units.
        bias: whether the layer has one.
        own_grid: the layer's own coordinates of its inputs.
        fan_in: inputs by which the dense layer scales its draws; None takes n_visible.
        variance: of the entries that the dense layer draws; None takes 1 / (3 fan_in).
        options: see :class:`LayerOptions`.
    """

    dense_class: ClassVar[type[nn.Module]]
    view_class: ClassVar[type[View]]
    bias: nn.Parameter | None
    is_twin: bool
    """Whether the atoms, and V perhaps, are another layer's."""

    def __init__(
        self,
        n_visible: int,
        n_units: int,
        *,
        bias: bool,
        own_grid: Grid | None = None,
        fan_in: int | None = None,
        variance: float | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        device, dtype = options.pop("device", None), options.pop("dtype", None)
        generator, statistics = options.pop("seed", 0), options.pop("statistics", None)
        atoms, rule = options.pop("atoms", None), self._rule(options)
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}: weights need a floating-point type")
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = torch.Generator().manual_seed(int(generator))
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
                fan_in = fan_in or n_visible
                self.reset_V(dense_variance(fan_in) if variance is None else variance, generator)
                drawn = draw_bias(n_units, fan_in, generator) if bias else drawn
            self.bias = nn.Parameter(drawn) if bias else None
        if dtype.itemsize < 4:
            self.float()  # rounded twice, as a network is that is cast later
        self.to(device=torch.get_default_device() if device is None else device, dtype=dtype)
        self.is_twin = False

    @property
    def view(self) -> View:
        """This layer's geometry."""
        return self.view_class(self, type(self))

    @classmethod
    def _rule(cls, options: LayerOptions) -> Rule:
        """The rule among the options, or that which they make."""
        if (rule := options.pop("rule", None)) is not None:
            if options:
                raise ValueError(f"rule= is given, and {', '.join(options)} beside it: take one")
            return rule
        if "dictionary" not in options or not {"fraction", "n_atoms"} & options.keys():
            given = ", ".join(options) or "neither"
            raise TypeError(
                f"{cls.__name__} needs dictionary= and fraction= or n_atoms=, and was given {given}"
            )
        return Rule(**options)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @property
    @override
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """W in the dense layer's layout, computed anew at each access, and not to be written."""
        return guarded(self.multiply_out())

    @weight.setter
    def weight(self, _: object) -> None:
        raise ValueError(READ_ONLY)

    @weight.deleter
    def weight(self) -> None:
        raise ValueError(READ_ONLY)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As for any module, but a ``ValueError`` for ``weight``, which V computes."""
        if name == "weight":
            raise ValueError(READ_ONLY)
        super().register_parameter(name, param)

    @override
    def multiply_out(self) -> Tensor:
        """W in the dense layer's own layout and dtype."""
        with full_precision(self.V):
            return self.view.to_weight(self._weight_rows(self._mixed()))

    @override
    def check_weight(self, W: Tensor) -> Tensor:
        """W, in the dense layer's layout, as (n_units, n_visible) float64 on the CPU."""
        return super().check_weight(self.view.to_filters(W))

    @classmethod
    def from_dense(
        cls,
        layer: nn.Module,
        rule: Rule,
        *,
        seed: int | None = 0,
        statistics: InputStatistics | None = None,
        bases: SharedBases | None = None,
        indices: Tensor | None = None,
        atoms: Atoms | None = None,
        delta: torch.dtype | None = None,
    ) -> Self:
        """A predicted layer of the same shape, bias, device, dtype and mode, with V drawn anew.

        Call :meth:`fit` with the dense layer's weight to approximate it instead.

        Args:
            layer: the dense counterpart, such as ``nn.Linear``.
            rule: how to predict its weights.
            seed: of the draws of atoms and V; None leaves V arbitrary until it is loaded.
            statistics: of the layer's inputs, for data-driven dictionaries.
            bases: bases of other layers, to share with this one.
            indices: (columns, n_atoms) atoms drawn earlier, to rebuild them.
            atoms: built earlier, whole; None builds them from the rule.
            delta: makes what is added to the layer, in this dtype: no bias, V = 0 and learned.

        Raises:
            ValueError: what the class, the rule or the dictionary cannot do for this layer.
        """
        rule.check_use(adapting=delta is not None)
        dense = cls.view_class(layer, cls)
        if refusal := dense.refusal:
            raise ValueError(str(refusal))
        weight, bias, dtype = dense.weight, dense.bias, delta or dense.weight.dtype
        W = None
        if rule.dictionary.from_weight and atoms is None:
            W = dense.filters().detach().to("cpu", torch.float64).t()
        generator = None if seed is None else torch.Generator().manual_seed(int(seed))
        bases = bases or SharedBases()
        atoms = atoms or rule.build(
            *dense.sizes, grid=dense.grid, statistics=statistics, generator=generator, bases=bases,
            indices=indices, weight=W,
        )  # fmt: skip
        predicted = cls(
            **dense.arguments(), rule=rule, seed=generator, atoms=atoms, device=weight.device,
            dtype=dtype,
        )  # fmt: skip
        cast = predicted.atoms.base
        predicted.atoms.base = bases.place(atoms.base, cast, weight.device, dtype)
        predicted.V.requires_grad_(weight.requires_grad)
        if delta is not None:
            predicted.bias = None
            predicted.V = nn.Parameter(torch.zeros_like(predicted.V))
        if predicted.bias is not None:
            assert bias is not None
            with torch.no_grad():
                predicted.bias.copy_(bias)
            predicted.bias.requires_grad_(bias.requires_grad)
        return predicted.train(layer.training)

    def added_to(self, y: Tensor, *inputs: object, **options: object) -> Tensor:
        """y plus the layer's output; y may be written into."""
        return plus(y, self(*inputs, **options))

    def to_dense(self) -> Any:
        """The dense counterpart, with this layer's weights, bias, device, dtype and mode.

        W is multiplied out in single precision at least, and rounded once.
        """
        dense: Any = self.view.new_dense(self.V.device, self.V.dtype)
        half = self.V.dtype in (torch.float16, torch.bfloat16)  # of which W is rounded once
        precise = copy.deepcopy(self).float() if half else self
        with torch.no_grad():
            dense.weight.copy_(precise.multiply_out())
            dense.weight.requires_grad_(self.V.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    def tie(self, other: PredictedLayer) -> None:
        """Share V and atoms with a layer of the same rule, units and filters, but not the bias."""
        self.V = other.V
        self.share_atoms(other)

    def share_atoms(self, other: PredictedLayer) -> None:
        """Take the atoms of a layer of the same rule and inputs.

        A state dict then holds them under the other layer's name alone.
        """
        self.atoms, self._counted, self.is_twin = other.atoms, None, True

    @override
    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As for any module, but a twin leaves the atoms to the layer that it has them from."""
        state = super().state_dict(*args, prefix=prefix, **options)
        for key in self.atoms.state_dict(prefix=f"{prefix}atoms.") if self.is_twin else ():
            del state[key]
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.is_twin:  # its atoms are looked for, and are the other layer's
            for key, tensor in self.atoms.state_dict(prefix=f"{prefix}atoms.").items():
                state_dict.setdefault(key, tensor)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def clear_padding(self) -> None:
        """Set the units to zero that the dense layer starts at zero: an embedding's padding."""

    @torch.no_grad()
    def remake(self, *, seed: int = 0, statistics: InputStatistics | None = None) -> None:
        """Make the atoms and draw V anew, in place, as :meth:`from_dense` does; the bias stays.

        V stays the same parameter, so that an optimiser keeps it.
        """
        fresh = self.from_dense(self.to_dense(), self.rule, seed=seed, statistics=statistics)
        self.atoms, self._counted, self.is_twin = fresh.atoms, None, False
        self.V.copy_(fresh.V)
