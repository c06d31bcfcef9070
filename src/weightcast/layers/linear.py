"""PredictedLinear: y = x U V + b, in place of ``nn.Linear``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics
from weightcast.grid import Grid
from weightcast.layers.layer import PredictedLayer
from weightcast.weight import Path


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
        seed: of the draws of atoms, V and bias; None leaves V and bias to be loaded.
        statistics: of the inputs, for data-driven dictionaries.
        atoms: built earlier, to share bases; None builds them.
        device: of parameters and constants.
        dtype: of parameters and constants.

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
        seed: int | torch.Generator | None = 0,
        statistics: InputStatistics | None = None,
        atoms: Atoms | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features, out_features, bias=bias, dictionary=dictionary, fraction=fraction,
            columns=columns, grid=grid, path=path, seed=seed, statistics=statistics, atoms=atoms,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """X U V + b: (..., in_features) to (..., out_features)."""
        return super().forward(input, self.bias)

    @classmethod
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        n_units, n_visible = cls._sizes(layer)
        return {
            "in_features": n_visible,
            "out_features": n_units,
            "bias": layer.bias is not None,
        }


class PredictedTransposedLinear(PredictedLayer):
    """y = x U V + b, in place of transformers' ``Conv1D``, whose weight is W and not W^T.

    Args:
        nf: n_units.
        nx: n_visible.
        options: how to predict: ``dictionary``, ``fraction`` and what else
            :class:`PredictedLinear` takes by name.

    Raises:
        ValueError: what :class:`Rule` or the dictionary refuses.
    """

    def __init__(self, nf: int, nx: int, **options: Any) -> None:
        # transformers draws weights of standard deviation 0.02, and no bias.
        super().__init__(nx, nf, bias=True, variance=0.02**2, bias_bound=0.0, **options)
        self.nf, self.nx = nf, nx

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """X U V + b: (..., nx) to (..., nf)."""
        return super().forward(x, self.bias)

    @classmethod
    @override
    def unit_rows(cls, layer: Any, W: Tensor) -> Tensor:
        """W^T, (nf, nx)."""
        return W.t()

    @override
    def _torch_layout(self, rows: Tensor) -> Tensor:
        return rows.t()

    @override
    def _new_dense(self) -> Any:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):
            dense = Conv1D(self.nf, self.nx)
        return dense.to(self.V.dtype).to_empty(device=self.V.device)

    @classmethod
    @override
    def _dense_arguments(cls, layer: Any) -> dict[str, Any]:
        n_units, n_visible = cls._sizes(layer)
        return {"nf": n_units, "nx": n_visible}
