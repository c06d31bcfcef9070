"""layer_rows: a layer's inputs as the rows that it multiplies by W."""

from __future__ import annotations

from torch import Tensor, nn

from weightcast.layers.convolution import PredictedConvolution
from weightcast.patches import extract_patches


def layer_rows(layer: nn.Module, x: Tensor, *, side_by_side: bool = False) -> Tensor:
    """The rows that a layer multiplies by W: (n_rows, n_visible).

    Args:
        layer: ``nn.Linear`` or ``nn.ConvNd``, or its predicted counterpart.
        x: the layer's input; a convolution's patches become rows, one per output position (and
            group).
        side_by_side: put the patches of one position's groups into one row, (n_positions,
            groups * n_visible).
    """
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, PredictedConvolution)):
        return x.reshape(-1, x.shape[-1])
    rows = extract_patches(x, layer)
    if not side_by_side or layer.groups == 1:
        return rows
    batch = 1 if x.dim() == len(layer.kernel_size) + 1 else len(x)
    rows = rows.view(batch, layer.groups, -1, rows.shape[-1])
    return rows.transpose(1, 2).flatten(0, 1).flatten(1)
