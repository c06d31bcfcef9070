"""View: what a dense layer, or the predicted one in its place, is to us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from weightcast.grid import Grid
from weightcast.layers.layer import PredictedLayer
from weightcast.layers.registry import predicted_class
from weightcast.layers.rule import Rule


@dataclass(frozen=True)
class Refusal:
    """Why something cannot be done with a layer, and what to do about it.

    Args:
        reason: what is in the way: a predicate of the layer (``is frozen``, ``has hooks``), or a
            sentence of its own.
        remedy: what to do.
        predicate: whether the reason goes on from the layer's name.
    """

    reason: str
    remedy: str = ""
    predicate: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason

    def about(self, subject: str) -> str:
        """The refusal as a sentence about ``subject``, such as ``layer '0'``."""
        return f"{subject}{' ' if self.predicate else ': '}{self}"


class View:
    """One layer, dense or predicted: its filters, inputs, coordinates, sizes, and refusals.

    Args:
        layer: that can be predicted, or is.
    """

    def __init__(self, layer: nn.Module, counterpart: type[PredictedLayer]) -> None:
        self.layer: Any = layer
        self.counterpart = counterpart

    @property
    def sizes(self) -> tuple[int, int]:
        """(n_visible, n_units)."""
        if isinstance(self.layer, PredictedLayer):
            return self.layer.n_visible, self.layer.n_units
        n_units, n_visible = self.filters().shape
        return n_visible, n_units

    @property
    def grid(self) -> Grid | None:
        """The coordinates that the layer knows of its inputs."""
        return self.counterpart.own_grid(self.layer)

    def filters(self, weight: Tensor | None = None) -> Tensor:
        """(n_units, n_visible): filters of the layer's weight, or of one laid out alike."""
        return self.counterpart.unit_rows(
            self.layer, self.layer.weight if weight is None else weight
        )

    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """The rows that the layer multiplies by W when it is called with these inputs.

        Args:
            inputs: what it is called with; a convolution's patches become rows, one per output
                position (and group).
            side_by_side: put the rows of one position's groups into one row.

        Returns:
            (n_rows, n_visible), or (n_positions, groups * n_visible).

        Raises:
            ValueError: a layer that multiplies no inputs, such as an embedding.
        """
        return self.counterpart.input_rows(self.layer, *inputs, side_by_side=side_by_side)

    @property
    def refusal(self) -> Refusal | None:
        """What of a dense layer cannot be predicted; None if nothing is in the way."""
        text = self.counterpart.refusal(self.layer)
        return None if text is None else Refusal(text)

    @property
    def blindness(self) -> Refusal | None:
        """Why no dictionary can be made of the layer's inputs; None if one can."""
        text = self.counterpart.data_refusal(self.layer)
        return None if text is None else Refusal(text)

    @property
    def dense_multiply_adds(self) -> int:
        """Multiply-adds of the dense layer per row, or per position of a convolution."""
        return self.counterpart.dense_multiply_adds(self.layer)

    def predict(self, rule: Rule, **how: Any) -> PredictedLayer:
        """A predicted layer in the layer's place; arguments as for ``from_dense``."""
        return self.counterpart.from_dense(self.layer, rule, **how)


def find_view(layer: nn.Module) -> View | None:
    """The view of a layer, dense or predicted; None if it is none that can be predicted."""
    counterpart = predicted_class(layer)
    return None if counterpart is None else View(layer, counterpart)


def view(layer: nn.Module) -> View:
    """The view of a layer, dense or predicted.

    Raises:
        ValueError: it is none that can be predicted.
    """
    found = find_view(layer)
    if found is None:
        raise ValueError(f"{type(layer).__name__} is no layer that can be predicted")
    return found
