"""View: filters, inputs and sizes of a layer, read alike from a dense and a predicted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms
from weightcast.grid import Grid
from weightcast.layers.rule import Rule
from weightcast.weight import PredictedWeight

if TYPE_CHECKING:
    from weightcast.layers.layer import PredictedLayer


@dataclass(frozen=True)
class Refusal:
    """Why something cannot be done with a layer, and what to do about it.

    Args:
        reason: a sentence, or a predicate of the layer (``is frozen``, ``has hooks``).
        remedy: what to do.
        predicate: whether the reason continues the layer's name.
    """

    reason: str
    remedy: str = ""
    predicate: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason

    def about(self, subject: str) -> str:
        """The refusal as a sentence about ``subject``, such as ``layer '0'``."""
        return f"{subject}{' ' if self.predicate else ': '}{self}"


Layer = TypeVar("Layer", bound=nn.Module)


def readable(weight: Tensor) -> Tensor:
    """A weight as plain numbers, torchao's read back."""
    return weight.dequantize() if is_torchaos(weight) else weight


def is_torchaos(weight: object) -> bool:
    """Whether torchao holds a weight in a form of its own."""
    if type(weight) in (Tensor, nn.Parameter):  # where torch.compile reads no more of the type
        return False
    return type(weight).__module__.split(".")[0] == "torchao"


def plus(y: Tensor, d: Tensor) -> Tensor:
    """y + d in y's dtype; where d is 0.0 each y stays as it is, -0.0 too."""
    return torch.neg(torch.neg(y) - d).to(y.dtype)


class View(Generic[Layer]):
    """One layer, dense or predicted: its filters, inputs, coordinates, sizes and refusals.

    A predicted class names its subclass of this one as ``view_class``. This class itself fits
    layers whose weight holds one filter per unit along its first axis, and which multiply the last
    axis of their first input. A predicted layer has the dense one's attributes, so that the same
    code reads both. ``counterpart`` is the predicted class, of a predicted layer its own.
    """

    attributes: ClassVar[tuple[str, ...]] = ()
    """Arguments of both constructors that both layers keep as attributes."""

    size_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments that are n_visible and n_units, where these are read off the weight.

    Pruning a layer, or enlarging a table, by a new weight leaves the attributes as they were; torch
    computes with the weight.
    """

    bias_argument: ClassVar[bool] = True
    """Whether both constructors are told if there is a bias."""

    per_position: ClassVar[bool] = False
    """Whether a row is a position of the filters, not a row of the input."""

    def __init__(self, layer: Layer, counterpart: type[PredictedLayer]) -> None:
        self.layer, self.counterpart = layer, counterpart

    @property
    def weight(self) -> Tensor:
        """The weight in the dense layer's layout; a predicted layer computes it."""
        if isinstance(self.layer, PredictedWeight):
            return self.layer.multiply_out()
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def readable(self) -> Tensor:
        """The weight as plain numbers; a quantised one is read back."""
        return readable(self.weight)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        bias = getattr(self.layer, "bias", None)
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @property
    def sizes(self) -> tuple[int, int]:
        """(n_visible, n_units)."""
        if isinstance(self.layer, PredictedWeight):
            return self.layer.n_visible, self.layer.n_units
        n_units, n_visible = self.filters(torch.empty(self.weight.shape, device="meta")).shape
        return n_visible, n_units

    @property
    def grid(self) -> Grid | None:
        """The coordinates that the layer knows of its inputs."""
        return None

    def filters(self, weight: Tensor | None = None) -> Tensor:
        """(n_units, n_visible): filters of the layer's weight, or of one laid out alike."""
        return self.to_filters(self.readable if weight is None else weight)

    def to_filters(self, weight: Tensor) -> Tensor:
        """One row per unit, its filter, (n_units, n_visible), from the dense layer's layout."""
        return weight.reshape(weight.shape[0], -1)

    def to_weight(self, filters: Tensor) -> Tensor:
        """The dense layer's layout of (n_units, n_visible) filters."""
        return filters

    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """(n_rows, n_visible): the rows that the layer multiplies by W, called with these inputs.

        With ``side_by_side`` the rows of one position's groups become one row: (n_positions,
        groups * n_visible). ``ValueError`` for a layer without such rows, such as an embedding.
        """
        return inputs[0].reshape(-1, inputs[0].shape[-1])

    @property
    def rows_key(self) -> tuple[Any, ...]:
        """Layers of one key make the same rows of the same inputs."""
        return type(self), self.sizes[0]

    @property
    def refusal(self) -> Refusal | None:
        """Why a dense layer cannot be predicted; None if it can."""
        shape, stated = tuple(self.weight.shape), self.stated_shape
        if stated not in (None, shape):  # torch may compute with it, but what is new would not fit
            return Refusal(
                f"its weight is {shape}, and its attributes say {stated}",
                "set them to what the weight has, or leave the layer dense",
            )
        _, n_units = self.sizes
        if self.bias is not None and tuple(self.bias.shape) != (n_units,):
            return Refusal(
                f"its bias is {tuple(self.bias.shape)}, and its weight has {n_units} units",
                "give it a bias of as many",
            )
        return None

    @property
    def stated_shape(self) -> tuple[int, ...] | None:
        """The weight's shape as the attributes state it; None where they do not decide it."""
        return None

    @property
    def adapting_refusal(self) -> Refusal | None:
        """Why no output can be added to the layer's; None if one can."""
        return self.refusal

    @torch.no_grad()
    def gain(self, atoms: Atoms, covariance: Tensor | None) -> float:
        """Root mean square of x U over all atoms, inputs of variance 1 where none were seen."""
        columns = range(min(atoms.columns, 64))
        U = torch.cat([atoms.dictionary(column) for column in columns], dim=1).double().cpu()
        CU = U if covariance is None else covariance @ U
        return float((U * CU).sum(dim=0).mean().clamp_min(0).sqrt())  # rounding, where x U is 0

    @property
    def blindness(self) -> Refusal | None:
        """Why no dictionary can be made of the layer's inputs; None if one can."""
        return None

    @property
    def dense_multiply_adds(self) -> int:
        """Multiply-adds of the dense layer per row, or per position of a convolution."""
        if isinstance(self.layer, PredictedWeight):
            return self.layer.n_visible * self.layer.n_units
        return self.weight.numel()

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that the dense layer and its predicted one share."""
        found = {name: getattr(self.layer, name) for name in self.attributes}
        found |= zip(self.size_arguments, self.sizes, strict=False)
        return found | ({"bias": self.bias is not None} if self.bias_argument else {})

    def new_dense(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """A dense layer of the same arguments, with any weights."""
        # Its own initialisation would be overwritten, and would move the global random state.
        return nn.utils.skip_init(
            self.counterpart.dense_class, **self.arguments(), device=device, dtype=dtype
        )

    def predict(self, rule: Rule, **how: Any) -> PredictedLayer:
        """A predicted layer in the layer's place; arguments as for ``from_dense``."""
        return self.counterpart.from_dense(self.layer, rule, **how)
