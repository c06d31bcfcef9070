"""Patches: the inputs of a convolution as rows, one per output position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Padding = str | int | Sequence[int]


class Convolution(Protocol):
    """The attributes that patches depend on; torch's convolutions and predicted ones have them."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def padding_mode(self) -> str:
        """Torch's name for what lies outside the input."""
        ...


def reversed_padding(layer: Convolution) -> list[int]:
    """A convolution's padding as ``nn.functional.pad`` takes it: last axis first, before, after."""
    if layer.padding == "valid":
        return [0, 0] * len(layer.kernel_size)
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(t // 2, t - t // 2) for t in total]
    else:
        assert not isinstance(layer.padding, str)
        pairs = [(p, p) for p in layer.padding]
    return [amount for pair in reversed(pairs) for amount in pair]


def output_size(size: Sequence[int], layer: Convolution) -> list[int]:
    """Positions of a convolution's filters along each axis, for an input of some size."""
    padding = reversed_padding(layer)[::-1]
    added = [before + after for before, after in zip(padding[::2], padding[1::2], strict=True)]
    return [
        (extent + more - dilation * (kernel - 1) - 1) // step + 1
        for extent, more, dilation, kernel, step in zip(
            size, added, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]


def pad_input(x: Tensor, layer: Convolution) -> tuple[Tensor, Padding]:
    """The input, padded in every mode but zeros, and the padding left for the convolution."""
    if layer.padding_mode == "zeros":
        return x, layer.padding
    return nn.functional.pad(x, reversed_padding(layer), mode=layer.padding_mode), 0


def extract_patches(x: Tensor, layer: Convolution) -> Tensor:
    """All patches of a convolution's input, in the order of its weight.

    ([batch,] channels, *size) to
    (batch * groups * positions, channels / groups * prod(kernel_size)).
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(_batch(x, layer), reversed_padding(layer), mode=mode)
    windows = _windows(x, layer, layer.stride)
    return windows.flatten(-len(layer.kernel_size) - 1).flatten(0, -2)


def extract_transposed_patches(x: Tensor, layer: _ConvNd) -> Tensor:
    """As :func:`extract_patches`, for a transposed convolution: inputs with zeros between them."""
    x, n_axes = _batch(x, layer), len(layer.kernel_size)
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *size)
    spread[(..., *[slice(None, None, s) for s in layer.stride])] = x
    padding, cut = [], layer.padding
    assert not isinstance(cut, str)
    for axis in reversed(range(n_axes)):
        margin = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - cut[axis]
        padding += [margin, margin + layer.output_padding[axis]]  # negative: cut away
    windows = _windows(nn.functional.pad(spread, padding), layer, [1] * n_axes)
    # The last place of the kernel lies on the first input.
    windows = windows.flip([-1 - axis for axis in range(n_axes)])
    return windows.flatten(-n_axes - 1).flatten(0, -2)


def _batch(x: Tensor, layer: Convolution) -> Tensor:
    """One example becomes a batch of one: (batch, channels, *size)."""
    return x.unsqueeze(0) if x.dim() == len(layer.kernel_size) + 1 else x


def _windows(x: Tensor, layer: Convolution, stride: Sequence[int]) -> Tensor:
    """(batch, channels, *size) to (batch, groups, *positions, channels / groups, *kernel)."""
    n_axes = len(layer.kernel_size)
    x = x.unflatten(1, (layer.groups, -1))  # (batch, groups, channels, *size)
    for axis in range(n_axes):
        dilation, size = layer.dilation[axis], layer.kernel_size[axis]
        windows = x.unfold(3 + axis, dilation * (size - 1) + 1, stride[axis])
        x = windows[..., ::dilation]
    # (batch, groups, channels, *positions, *kernel): channels go next to the kernel.
    return x.movedim(2, 2 + n_axes)
