"""ledger: what each layer learns, holds, stores, sends and computes, next to the dense one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from weightcast.dictionaries.packing import pack_indices
from weightcast.layers import (
    PREDICTED,
    PredictedLayer,
    adapted_layers,
    find_view,
    predicted_layers,
    split_module,
)
from weightcast.serialization import aligned

_HEADS = ("layer", "kind", "dense", "learned", "share", "static", "bytes", "multiply-adds")


@dataclass(frozen=True)
class LedgerRow:
    """Counts of one layer, in numbers (not bytes) unless said otherwise.

    Args:
        layer: its name, or ``total``.
        kind: its class.
        dense: parameters of the dense layer, bias included; none of what is added to a frozen one.
        learned: parameters that are trained: V (and a LowRank's U), bias.
        static: fixed numbers held in memory: base, mixing, indices, and U where it is multiplied
            out because that costs less; a shared base counts once.
        stored: numbers that a saved folder holds: the learned ones, the indices, and bases and
            mixing that cannot be rebuilt from the plan. A bit mask in the indices' place counts as
            its bytes; where every unit is a column, as many numbers as these would hold.
        stored_bytes: what these take there, in the dtypes of the file.
        sent_per_step: gradients that data-parallel training exchanges at each step.
        optimiser_state: numbers that Adam keeps: two per learned weight.
        multiply_adds: of a forward pass, per row (a token, a step of a recurrent layer), or per
            position of a convolution's filters; a total over both kinds means nothing, and is 0.
        dense_multiply_adds: the same for the dense layer.
    """

    layer: str
    kind: str
    dense: int
    learned: int
    static: int
    stored: int
    stored_bytes: int
    sent_per_step: int
    optimiser_state: int
    multiply_adds: int
    dense_multiply_adds: int

    @property
    def proportion_learned(self) -> float:
        """Learned parameters over the dense layer's parameters, biases included in both."""
        return self.learned / self.dense if self.dense else 1.0


@dataclass(frozen=True)
class Ledger:
    """A table of all layers that hold parameters, and their total.

    Args:
        rows: one per layer.
    """

    rows: tuple[LedgerRow, ...]

    @property
    def total(self) -> LedgerRow:
        """The sums over all layers."""
        numbers = [field.name for field in fields(LedgerRow) if field.type == "int"]
        sums = {name: sum(getattr(row, name) for row in self.rows) for name in numbers}
        per_position = {
            cls.__name__
            for dense, predicted in PREDICTED.items()
            if predicted.view_class.per_position
            for cls in (dense, predicted)
        }
        if len({row.kind in per_position for row in self.rows if row.dense_multiply_adds}) > 1:
            sums["multiply_adds"] = sums["dense_multiply_adds"] = 0
        return LedgerRow(layer="total", kind="", **sums)

    def to_dict(self) -> dict[str, Any]:
        """JSON data: ``layers`` (a list of rows) and ``total``."""
        rows = [
            asdict(row) | {"proportion_learned": row.proportion_learned}
            for row in (*self.rows, self.total)
        ]
        return {"layers": rows[:-1], "total": rows[-1]}

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [_HEADS]
        for row in (*self.rows, self.total):
            saved = row.multiply_adds / max(1, row.dense_multiply_adds)
            cost = f"{row.multiply_adds:,} ({saved:.0%})" if row.dense_multiply_adds else ""
            learned = (f"{row.dense:,}", f"{row.learned:,}", f"{row.proportion_learned:.1%}")
            table.append(
                (row.layer, row.kind, *learned, f"{row.static:,}", f"{row.stored_bytes:,}", cost)
            )
        return aligned(table, n_names=2, ruled=True)


def ledger(model: nn.Module, batch: int = 100) -> Ledger:
    """Count what every layer of a model learns, holds, stores, sends and computes.

    Args:
        model: dense, predicted or mixed.
        batch: rows per forward pass; the more there are, the less of mixing falls on each.

    Returns:
        A :class:`Ledger`: ``print`` it, or take ``.rows``, ``.total``, ``.to_dict()``.

    Raises:
        ValueError: a lazy module whose sizes are not known yet.
    """
    rows = []
    inside = {id(m) for layer in predicted_layers(model).values() for m in layer.modules()}
    deltas = {id(layer.delta) for layer in adapted_layers(model).values()}
    counted: set[int] = set()  # identities of what is shared or tied, and counts once
    for name, module in model.named_modules():
        if isinstance(module, PredictedLayer):
            row = _predicted_row(name, module, batch, counted)
            rows.append(replace(row, dense=0) if id(module) in deltas else row)
            counted.update(map(id, module.parameters()))
        if id(module) in inside:
            continue
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        if any(map(is_lazy, own)):
            raise ValueError(
                f"layer {name!r} has no shape yet: call the model once, on example inputs, so that "
                "its lazy modules know their sizes"
            )
        if own:
            rows.append(_dense_row(name, module, own))
    return Ledger(tuple(rows))


def _predicted_row(name: str, layer: PredictedLayer, batch: int, counted: set[int]) -> LedgerRow:
    atoms = layer.atoms
    own = [p for p in layer.parameters() if id(p) not in counted]
    held = sum(p.numel() for p in own)
    learned = sum(p.numel() for p in own if p.requires_grad)
    base = 0 if id(atoms.base) in counted else atoms.base.n_static
    tied = id(atoms) in counted
    indices, mixing, stacked = (
        0 if tensor is None or tied else tensor.numel()
        for tensor in (atoms.indices, atoms.mixing, atoms.stacked)
    )
    chosen, chosen_bytes = (0, 0) if tied else _stored_indices(layer)
    fixed = 0 if layer.rule.dictionary.rebuildable else base + mixing
    bias = 0 if layer.bias is None or id(layer.bias) in counted else layer.n_units
    dense = 0 if id(layer.V) in counted else layer.n_visible * layer.n_units
    counted.update((id(atoms.base), id(atoms)))
    return _row(
        name,
        layer,
        dense=dense + bias,
        learned=learned,
        static=base + mixing + indices + stacked + held - learned,
        stored=held + chosen + fixed,
        stored_bytes=sum(p.nbytes for p in own) + fixed * layer.V.element_size() + chosen_bytes,
        multiply_adds=-(-_multiply_adds(layer, batch) // batch),
        dense_multiply_adds=layer.view.dense_multiply_adds,
    )


def _multiply_adds(layer: PredictedLayer, batch: int) -> int:
    """Of ``batch`` rows; of a relative layer those that make the weight, once for all rows."""
    if not layer.rule.relative:
        return layer.multiply_adds(batch)
    return layer.multiply_adds(0, "materialised") + layer.n_visible * layer.n_units


def _stored_indices(layer: PredictedLayer) -> tuple[int, int]:
    """How many numbers of V's size a file holds in the indices' place, and how many bytes."""
    atoms = layer.atoms
    if atoms.indices.is_meta:  # without values, which alone tell how they are packed
        return atoms.indices.numel(), atoms.indices.nbytes
    _, packed = pack_indices(atoms.indices, atoms.base.n_base)
    if layer.rule.dictionary.per_unit:  # as many indices as learned numbers: only bytes tell
        return -(-packed.nbytes // layer.V.element_size()), packed.nbytes
    return packed.numel(), packed.nbytes


def _dense_row(name: str, module: nn.Module, parameters: list[nn.Parameter]) -> LedgerRow:
    count = sum(p.numel() for p in parameters)
    state = module.state_dict()  # buffers too, such as a normalisation's running statistics
    own = [buffer for key, buffer in module.named_buffers(recurse=False) if key in state]
    buffers = sum(buffer.numel() for buffer in own)
    learned = sum(p.numel() for p in parameters if p.requires_grad)
    cost = _dense_multiply_adds(module)
    return _row(
        name,
        module,
        dense=count,
        learned=learned,
        static=count - learned + buffers,
        stored=count + buffers,
        stored_bytes=sum(t.nbytes for t in parameters) + sum(b.nbytes for b in own),
        multiply_adds=cost,
        dense_multiply_adds=cost,
    )


def _row(name: str, module: nn.Module, *, learned: int, **counts: int) -> LedgerRow:
    """A row whose optimiser state and exchange follow from what is learned."""
    kind, state = type(module).__name__, 2 * learned
    return LedgerRow(
        name, kind, learned=learned, sent_per_step=learned, optimiser_state=state, **counts
    )


def _dense_multiply_adds(module: nn.Module) -> int:
    """Multiply-adds per row, or per step of a recurrent layer; 0 where they are not known."""
    if (seen := find_view(module)) is not None:
        return seen.dense_multiply_adds if "weight" in module._parameters else 0
    if (split := split_module(module)) is not None:
        return sum(_dense_multiply_adds(layer) for layer in split.layers().values())
    return 0
