"""Predicted embeddings: the table W^T = (U V)^T, of which only the rows looked up are computed."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries import Atoms
from weightcast.layers.layer import LayerOptions, PredictedLayer, full_precision
from weightcast.layers.view import Refusal, View
from weightcast.weight import Cost, known


class TableView(View[nn.Embedding | nn.EmbeddingBag]):
    """A table of vectors: a unit is a row, and no inputs are multiplied."""

    size_arguments = ("embedding_dim", "num_embeddings")
    attributes = ("padding_idx", "scale_grad_by_freq")
    bias_argument = False

    @property
    @override
    def refusal(self) -> Refusal | None:
        """Tables that torch changes in place, or whose gradient is sparse."""
        layer, name = self.layer, type(self.layer).__name__
        if layer.max_norm is not None:
            return Refusal(
                f"{name} has max_norm={layer.max_norm:g}, which rewrites rows of the weight at "
                "each call",
                "predicted rows are not stored; set max_norm=None, or leave it dense",
            )
        if layer.sparse:
            return Refusal(
                f"{name} has sparse=True, and V's gradient is dense", "set sparse=False first"
            )
        return None  # without a bias, and of the sizes that the weight has

    @override
    def gain(self, atoms: Atoms, covariance: Tensor | None) -> float:
        """Root mean square norm of U's rows: by these a look-up's outputs move with V."""
        return float((atoms.energy().mean() / atoms.n_visible).sqrt())

    @property
    @override
    def blindness(self) -> Refusal:
        """Always: a look-up multiplies nothing by W."""
        return Refusal(
            "an embedding selects rows and multiplies no inputs, of which a dictionary could be "
            "made",
            "take one that needs no inputs, such as DCT, or RandomGaussian",
        )

    @override
    def input_rows(self, *inputs: Tensor, side_by_side: bool = False) -> Tensor:
        """A ``ValueError``: a look-up multiplies nothing by W."""
        raise ValueError(str(self.blindness))

    @property
    @override
    def dense_multiply_adds(self) -> int:
        """A dense table is looked up."""
        return 0


class PredictedTable(PredictedLayer):
    """A table of vectors, one unit each: what ``nn.Embedding`` and ``nn.EmbeddingBag`` share.

    A unit is a row of the table, and its filter is that row, the vector of one token: n_visible =
    embedding_dim, n_units = num_embeddings. So a look-up multiplies U by the numbers that V has for
    these units; the whole table is computed only where that costs less, for more tokens than it has
    rows. A linear layer that is tied to the embedding has the same units and filters, and shares V.
    """

    view_class = TableView
    embedding_dim: int
    num_embeddings: int
    padding_idx: int | None
    scale_grad_by_freq: bool

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"padding_idx is {padding_idx}, the table has {num_embeddings} rows: it must lie "
                f"between {-num_embeddings} and {num_embeddings - 1}"
            )
        if padding_idx is not None:
            padding_idx %= num_embeddings
        super().__init__(embedding_dim, num_embeddings, bias=False, variance=1.0, **options)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.scale_grad_by_freq = padding_idx, scale_grad_by_freq
        self.clear_padding()

    @override
    @torch.no_grad()
    def clear_padding(self) -> None:
        """Set the vector of the padding to zero, as torch draws it."""
        if self.padding_idx is not None:
            self.V[:, self.padding_idx] = 0

    def look_up(self, tokens: Tensor) -> Tensor:
        """Rows of the table: (...) int64 to (..., embedding_dim)."""
        padding, scaled = self.padding_idx, self.scale_grad_by_freq
        options = {"padding_idx": padding, "scale_grad_by_freq": scaled}
        # What torch does to a row's gradient reaches a learned U only by way of W.
        whole = self.atoms.base.is_learned and (padding is not None or scaled)
        if whole or self.choose_path(tokens.numel()) == "materialised":
            return nn.functional.embedding(tokens, self.multiply_out(), **options)
        flat = tokens.reshape(-1)
        v = nn.functional.embedding(flat, self.V.t(), **options)  # (n, n_atoms)
        with full_precision(v):  # as torch's own look-up is
            rows = self._compose(v, self._column_of(flat))
        return rows.view(*tokens.shape, self.embedding_dim)

    def _compose(self, v: Tensor, column: Tensor) -> Tensor:
        """U_j v for each v: (n, n_atoms) and its column (n,) to (n, n_visible)."""
        atoms, M = self.atoms, self.atoms.pending_mixing
        if atoms.stacked is not None:
            return _by_column(v @ atoms.stacked, column)
        if M is not None and M.dim() == 2:
            v = v * M[column]
        elif M is not None:
            v = _by_column(atoms.mix(v.t().expand(atoms.columns, -1, -1)).mT, column)
        indices = atoms.indices[column]
        zeros = v.new_zeros(v.shape[0], atoms.base.n_base)
        return atoms.base.synthesise(zeros.scatter_add(1, indices, v))

    def _column_of(self, units: Tensor) -> Tensor:
        """The column that each unit belongs to, as :attr:`unit_columns`."""
        first, *rest = self._runs
        column = units // first.size
        for run in rest:
            later = run.columns.start + (units - run.units.start) // run.size
            column = torch.where(units < run.units.start, column, later)
        return column

    @override
    def _count_costs(self) -> dict[str, Cost]:
        """Per token looked up; the table, where it is computed, once."""
        atoms, columns = self.atoms, self.atoms.columns
        if atoms.stacked is not None:
            per_row = atoms.stacked.numel()
        else:
            M = atoms.pending_mixing
            mixing = 0 if M is None else M.numel() if M.dim() > 2 else M.numel() // columns
            per_row = mixing + atoms.base.synthesis_multiply_adds
        table = super()._count_costs()["materialised"].once
        return {"factored": Cost(0, per_row), "materialised": Cost(table, 0)}


class PredictedEmbedding(PredictedTable):
    """Rows of a predicted table, in place of ``nn.Embedding``; see :class:`PredictedTable`.

    Args:
        num_embeddings: n_units, rows of the table.
        embedding_dim: n_visible, length of a row.
        padding_idx: a row whose V gets no gradient, and starts at zero.
        scale_grad_by_freq: scale a row's gradient by the inverse of its frequency in the batch.
        options: as for :class:`PredictedLinear`.
    """

    dense_class = nn.Embedding

    @override
    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Look up: (...) int64 to (..., embedding_dim)."""
        return self.look_up(input)


class BagView(TableView):
    """A table whose rows are summed, averaged or maximised over bags."""

    attributes = (*TableView.attributes, "mode", "include_last_offset")

    @property
    @override
    def adapting_refusal(self) -> Refusal | None:
        """Maxima of sums are no sums of maxima."""
        if self.layer.mode == "max":  # pyright: ignore[reportAttributeAccessIssue]
            return Refusal("EmbeddingBag has mode='max', which no added table goes with")
        return self.refusal


class PredictedEmbeddingBag(PredictedTable):
    """Sums, means or maxima of a predicted table's rows, in place of ``nn.EmbeddingBag``.

    The rows are looked up as :class:`PredictedTable` says, then reduced by torch's own function.

    Args:
        num_embeddings: n_units, rows of the table.
        embedding_dim: n_visible, length of a row.
        scale_grad_by_freq: scale a row's gradient by the inverse of its frequency in the batch, as
            torch documents; its own CPU kernel (2.13) divides some rows by another's frequency.
        mode: ``sum``, ``mean`` or ``max``.
        include_last_offset: as in torch.
        padding_idx: a row that no bag counts, and whose V gets no gradient.
        options: as for :class:`PredictedLinear`.
    """

    dense_class = nn.EmbeddingBag
    view_class = BagView

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode is {mode!r}: take 'sum', 'mean' or 'max'")
        super().__init__(num_embeddings, embedding_dim, padding_idx, scale_grad_by_freq, **options)
        self.mode, self.include_last_offset = mode, include_last_offset

    @override
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Look up and reduce to (n_bags, embedding_dim), as torch's own.

        Args:
            input: (n_bags, size) tokens, or (n_tokens,) with ``offsets``.
            offsets: (n_bags,), where each bag starts.
            per_sample_weights: the input's shape, weights of a sum.
        """
        padding, scaled, n = self.padding_idx, False, input.numel()
        if padding is not None and not known(n):
            # In a graph torch fixes the number of rows of a table with padding: the whole table.
            table, places, scaled = self.weight, input, self.scale_grad_by_freq
        else:  # the rows of these tokens are a table of their own, after one for the padding
            table = self.look_up(input.reshape(-1))
            places = torch.arange(n, device=input.device).view(input.shape)
            if padding is not None:
                table = torch.cat([table.new_zeros(1, self.embedding_dim), table])
                places, padding = torch.where(input == padding, 0, places + 1), 0
        return nn.functional.embedding_bag(
            places, table, None if offsets is None else offsets.to(places.dtype), mode=self.mode,
            per_sample_weights=per_sample_weights, include_last_offset=self.include_last_offset,
            padding_idx=padding, scale_grad_by_freq=scaled,
        )  # fmt: skip


def _by_column(products: Tensor, column: Tensor) -> Tensor:
    """Of every column's product with all rows, (columns, n, b), that of each row's column: (n, b).

    To gather a matrix for each row instead would take far more memory.
    """
    if len(products) == 1:
        return products[0]
    return products[column, torch.arange(column.shape[0], device=column.device)]
