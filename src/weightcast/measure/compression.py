"""compression_report: what each layer of a compressed network has lost beside the dense one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.inputs.batches import as_batches, call, tensors_in
from weightcast.inputs.gather import naming_layer
from weightcast.inputs.hooks import observing
from weightcast.layers import predicted_layers, view
from weightcast.layers.convolution import PredictedConvolution
from weightcast.layers.counts import ledger
from weightcast.layers.models import check_values
from weightcast.plan.eligibility import convertible_layers
from weightcast.serialization import aligned


@dataclass(frozen=True)
class CompressionRow:
    """What one layer has lost.

    Args:
        layer: its name, or ``model`` for the network's own output.
        dictionary: the class of its dictionary.
        dense: parameters of the dense layer.
        learned: parameters of the compressed one.
        stored: numbers that a saved folder holds: with indices, and bases that cannot be rebuilt.
        weight_error: ``|W - U V|^2 / |W|^2``.
        output_error: of the layer's output y in the compressed network beside y~ in the dense one,
            ``|y - y~|^2 / |y~ - mean of each unit|^2``; None without inputs, or where y~ does not
            vary.
    """

    layer: str
    dictionary: str
    dense: int
    learned: int
    stored: int
    weight_error: float | None
    output_error: float | None


@dataclass(frozen=True)
class CompressionReport:
    """What every predicted layer has lost, in the model's order; printed as a table.

    Args:
        rows: one per layer, the last one for the network's output.
    """

    rows: tuple[CompressionRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON data: ``layers``, a list of rows."""
        return {"layers": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        heads = ("layer", "dictionary", "learned", "stored", "weights lost", "output lost")
        lines: list[tuple[str, ...]] = [heads]
        for row in self.rows:
            errors = (row.weight_error, row.output_error)
            lost = ("-" if error is None else f"{100 * error:.3g} %" for error in errors)
            lines.append((row.layer, row.dictionary, f"{row.learned:,}", f"{row.stored:,}", *lost))
        return aligned(lines, n_names=2)


def compression_report(
    model: nn.Module, compressed: nn.Module, inputs: Any = None
) -> CompressionReport:
    """Measure what each layer of a compressed network has lost.

    Nothing is remembered from the compression, so it serves as well after further training, after
    loading, and on inputs that the compression never saw.

    Args:
        model: the dense network.
        compressed: the same network with predicted layers.
        inputs: example batches as for ``convert``, at most 1,000 where they have no length; None
            leaves the errors of outputs out.

    Raises:
        ValueError: no predicted layers, layers that the dense network lacks, or inputs on which a
            network fails.
    """
    for network in (model, compressed):
        check_values(network)
    layers = predicted_layers(compressed)
    if not layers:
        raise ValueError("the compressed model has no predicted layer: nothing was compressed")
    modules = convertible_layers(model)
    for name, layer in layers.items():
        dense = modules.get(name)
        if dense is None or view(dense).counterpart is not type(layer):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}, and the dense model has no layer "
                "there that was compressed to it: pass the model that compress was given"
            )
    counts = ledger(compressed)
    by_name = {row.layer: row for row in counts.rows}
    errors = {} if inputs is None else _output_errors(model, compressed, list(layers), inputs)
    rows = []
    for name, layer in layers.items():
        with naming_layer(name):
            W, predicted = (layer.check_weight(view(one).weight) for one in (modules[name], layer))
        lost = float((W - predicted).square().sum() / W.square().sum().clamp_min(1e-300))
        row = by_name[name]
        numbers = (row.dense, row.learned, row.stored)
        dictionary = type(layer.rule.dictionary).__name__
        rows.append(CompressionRow(name, dictionary, *numbers, lost, errors.get(name)))
    whole = (counts.total.dense, counts.total.learned, counts.total.stored)
    return CompressionReport((*rows, CompressionRow("model", "", *whole, None, errors.get(None))))


def _output_errors(
    model: nn.Module, compressed: nn.Module, names: list[str], inputs: Any
) -> dict[str | None, float]:
    """The errors of layers' outputs by name, and that of the network's by None."""
    sums: dict[str | None, Tensor] = {}
    for batch in as_batches(inputs):
        found_dense, found = (_outputs(network, names, batch) for network in (model, compressed))
        for name, dense_outputs in found_dense.items():
            layer = None if name is None else compressed.get_submodule(name)
            axis = 1 if isinstance(layer, PredictedConvolution) else -1
            for y, other in zip(dense_outputs, found.get(name, ()), strict=False):
                if y is not None and other is not None and y.shape == other.shape and y.dim():
                    sums[name] = sums.get(name, 0) + _sums(y, other, axis)
    ratios = {name: _ratio(total) for name, total in sums.items()}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _outputs(model: nn.Module, names: list[str], batch: Any) -> dict[str | None, list[Any]]:
    """The outputs of every call of the layers on one batch, and by None that of the model."""
    outputs: dict[str | None, list[Any]] = {}

    def record(name: str | None, _: nn.Module, output: Any) -> None:
        y = next((y for y in tensors_in(output) if y.is_floating_point()), None)
        # A copy: what follows may change it in place.
        outputs.setdefault(name, []).append(None if y is None else y.detach().clone())

    with observing(model, names, record, outputs=True):
        record(None, model, call(model, batch))
    return outputs


def _sums(y: Tensor, other: Tensor, axis: int) -> Tensor:
    """Rows, squares of y, squares of the difference, and y of each unit, summed in float64."""
    y, other = y.to("cpu", torch.float64), other.to("cpu", torch.float64)
    by_unit = y.movedim(axis, -1).flatten(0, -2) if y.dim() > 1 else y.unsqueeze(0)
    n_rows = y.new_tensor(float(len(by_unit)))
    scalars = torch.stack([n_rows, y.square().sum(), (y - other).square().sum()])
    return torch.cat([scalars, by_unit.sum(dim=0)])


def _ratio(sums: Tensor) -> float | None:
    """The difference as a share of the variance; None where there is none but by rounding."""
    n_rows, squares, difference = sums[:3]
    variance = squares - sums[3:].square().sum() / n_rows
    return float(difference / variance) if variance > 1e-12 * squares else None
