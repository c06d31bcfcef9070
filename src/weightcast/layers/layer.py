"""PredictedLayer: a rule and a bias around one PredictedWeight, and the way to and from dense."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms, InputStatistics, SharedBases
from weightcast.grid import Grid
from weightcast.predicted import PredictedWeight, dense_variance, draw_bias
from weightcast.rule import Rule


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
        seed: of the draws of atoms, V and bias, in this order, or their CPU generator; None draws
            neither V nor bias: what they hold is arbitrary, and waits to be loaded.
        statistics: of the layer's inputs, for data-driven dictionaries.
        device: of parameters and constants.
        dtype: of parameters and constants, a floating-point type.
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
        seed: int | torch.Generator | None,
        statistics: InputStatistics | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
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
            bias_drawn = torch.zeros(n_units, dtype=torch.float64)
            if generator is not None:
                self.reset_V(dense_variance(n_visible), generator)
                bias_drawn = draw_bias(n_units, n_visible, generator)
            self.bias = nn.Parameter(bias_drawn) if bias else None
        device = torch.get_default_device() if device is None else device
        self.to(device=device, dtype=dtype)

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
            ValueError: what the rule or the dictionary cannot do for this layer.
        """
        weight: Tensor = layer.weight
        n_units = weight.shape[0]
        generator = None if seed is None else torch.Generator().manual_seed(seed)
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
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        """The constructor's arguments that a dense layer and its predicted one share."""
        raise NotImplementedError


def layer_grid(layer: nn.Module) -> Grid | None:
    """The coordinates that a dense layer knows of its inputs: a convolution's filter grid."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Grid(layer.kernel_size, channels=layer.in_channels // layer.groups)
    return None
