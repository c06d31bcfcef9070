"""What the matrices of a network are, and what each is given in the dense network, in one pass.

A matrix W (n_visible, n_units) belongs to a linear layer, to a convolution without groups (a row
for each channel and tap), or to a layer of an LSTM, which has two: for its inputs, and for its own
last outputs. One pass sees all of them. Kept of each are second moments in float64, of inputs or of
outputs, whichever are fewer: min(n_visible, n_units)² numbers, which layers that are given one
tensor share. For the 210 matrices of SmolLM2 these are 336 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.layers import view


class Second:
    """Sum of row^T row over all rows that were added, in float64."""

    def __init__(self) -> None:
        self.total, self.n_rows = torch.zeros((), dtype=torch.float64), 0

    def add(self, rows: Tensor) -> None:
        """Add rows (n, width)."""
        rows = rows.double()
        self.total, self.n_rows = self.total + rows.mT @ rows, self.n_rows + len(rows)

    @property
    def mean(self) -> Tensor:
        """(width, width)."""
        return self.total / self.n_rows


@dataclass
class Moments:
    """What a matrix is given: one of the two seconds, and two means for each input.

    Args:
        inputs: E[x^T x] (n_visible, n_visible), where there are no more inputs than units.
        outputs: E[(x W)^T (x W)] (n_units, n_units), where there are fewer units.
        magnitude: E|x| (n_visible,).
        square: E[x²] (n_visible,).
    """

    inputs: Tensor | None
    outputs: Tensor | None
    magnitude: Tensor
    square: Tensor


@dataclass
class Matrix:
    """One matrix of a network, where it lives.

    Args:
        name: of its module and, in an LSTM, of its parameter.
        parameter: (n_units, ...) as torch has it.
        n_taps: positions that a convolution looks at; 1 for all others.
    """

    name: str
    parameter: nn.Parameter
    n_taps: int = 1
    inputs: Second | None = field(default=None, repr=False)
    outputs: Second | None = field(default=None, repr=False)
    magnitude: Tensor | float = field(default=0.0, repr=False)
    square: Tensor | float = field(default=0.0, repr=False)
    n_seen: int = 0

    @property
    def W(self) -> Tensor:
        """(n_visible, n_units), a copy in float32."""
        return self.parameter.detach().flatten(1).mT.clone()

    @property
    def narrow(self) -> bool:
        """Whether there are no more inputs than units."""
        return self.parameter[0].numel() <= len(self.parameter)

    def put(self, W: Tensor) -> None:
        """Give the network another matrix, of the same shape."""
        with torch.no_grad():
            self.parameter.copy_(W.mT.reshape(self.parameter.shape))

    def moments(self) -> Moments:
        """What was seen of it, or an error if nothing was."""
        if not self.n_seen:
            raise ValueError(f"{self.name} was given nothing: does the network call it?")
        means = [torch.as_tensor(x / self.n_seen) for x in (self.magnitude, self.square)]
        return Moments(
            self.inputs.mean if self.inputs else None,
            self.outputs.mean if self.outputs else None,
            *(mean.repeat_interleave(self.n_taps) for mean in means),
        )

    def see(self, channels: Tensor) -> None:
        """Add the means of what it is given, (n, channels)."""
        self.magnitude = self.magnitude + channels.abs().sum(0)
        self.square = self.square + channels.square().sum(0)
        self.n_seen += len(channels)


def matrices(model: nn.Module, names: Iterable[str]) -> list[Matrix]:
    """The matrices of these modules, in their order."""
    found = []
    for name in names:
        module: Any = model.get_submodule(name)
        if isinstance(module, nn.LSTM):
            parts = [
                f"weight_{kind}_l{k}" for k in range(module.num_layers) for kind in ("ih", "hh")
            ]
            found += [Matrix(f"{name}.{part}", module.get_parameter(part)) for part in parts]
        else:
            n_taps = module.weight[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
            found.append(Matrix(name, module.get_parameter("weight"), n_taps))
    return found


@torch.no_grad()
def gather(model: nn.Module, names: Iterable[str], batches: Iterable[Tensor]) -> list[Matrix]:
    """The matrices of these modules, after the network has seen the batches once."""
    found = matrices(model, names)
    by_name = {matrix.name: matrix for matrix in found}
    last: list[Any] = [None, None]  # a tensor, and the moments it was added to
    handles = []
    for name in names:
        module: Any = model.get_submodule(name)
        if isinstance(module, nn.LSTM):
            hook = partial(_see_lstm, by_name, name)
        else:
            hook = partial(_see, by_name[name], last)
        handles.append(module.register_forward_hook(hook))
    try:
        for batch in batches:
            model(batch)
            last[0] = None
    finally:
        for handle in handles:
            handle.remove()
    return found


def _see(matrix: Matrix, last: list[Any], module: Any, arguments: Any, output: Tensor) -> None:
    x = arguments[0]
    matrix.see((x.movedim(1, -1) if matrix.n_taps > 1 or x.dim() == 4 else x).flatten(0, -2))
    if matrix.narrow:
        fresh = last[0] is not x
        if fresh:
            matrix.inputs = matrix.inputs or Second()
            matrix.inputs.add(view(module).input_rows(x))
            last[:] = [x, matrix.inputs]
        elif matrix.inputs is None:
            matrix.inputs = last[1]
        return
    bias = 0 if module.bias is None else module.bias
    rows = output.movedim(1, -1) if isinstance(module, nn.Conv2d) else output
    matrix.outputs = matrix.outputs or Second()
    matrix.outputs.add((rows - bias).flatten(0, -2))


def _see_lstm(found: dict[str, Matrix], name: str, module: nn.LSTM, arguments: Any, _: Any) -> None:
    for k, (x, before) in enumerate(_through_lstm(module, arguments[0])):
        for kind, rows in (("ih", x), ("hh", before)):
            matrix = found[f"{name}.weight_{kind}_l{k}"]
            matrix.see(rows.flatten(0, 1))
            matrix.inputs = matrix.inputs or Second()
            matrix.inputs.add(rows.flatten(0, 1))


def _through_lstm(module: nn.LSTM, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each layer's inputs and, one step later, its own outputs, (n, n_steps, width) both."""
    for k in range(module.num_layers):
        layer = nn.LSTM(x.shape[-1], module.hidden_size, batch_first=True)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, f"{kind}_l0").copy_(getattr(module, f"{kind}_l{k}"))
        outputs, _ = layer(x)
        yield x, torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], 1)
        x = outputs
