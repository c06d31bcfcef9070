"""Figure 1 of the paper: true filter, known weights, predicted filter, as inline PNG images."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Negative, zero, positive; equally bright at both ends, so that neither sign stands out.
NEGATIVE = np.array((33.0, 102.0, 172.0))
ZERO = np.array((247.0, 247.0, 247.0))
POSITIVE = np.array((178.0, 24.0, 43.0))


def filter_images(
    true: Sequence[float], known: Sequence[int], predicted: Sequence[float], shape: Sequence[int]
) -> tuple[str, str, str]:
    """Draw one filter three times, on one colour scale.

    Args:
        true: (height * width,) the filter's weights, row-major.
        known: (n_atoms,) positions of the known weights.
        predicted: (height * width,) the weights predicted from the known ones.
        shape: (height, width).

    Returns:
        Data URIs of the true filter, of the known weights alone (the rest is transparent), and of
        the predicted filter.

    Raises:
        ValueError: a filter that does not fill the shape or is not finite, or a position outside.
    """
    grid = tuple(int(extent) for extent in shape)
    w, w_hat = _filter("true", true, grid), _filter("predicted", predicted, grid)
    positions = np.asarray(known, dtype=np.int64).reshape(-1)
    if positions.size and not (0 <= positions.min() and positions.max() < w.size):
        raise ValueError(
            f"known positions run from {positions.min()} to {positions.max()}, the filter has "
            f"{w.size} weights"
        )
    largest = max(float(np.abs(w).max()), float(np.abs(w_hat).max())) or 1.0
    mask = np.zeros(w.size, dtype=bool)
    mask[positions] = True
    shown = colours(w / largest)
    return (
        data_uri(shown),
        data_uri(np.where(mask.reshape(*grid, 1), shown, 0).astype(np.uint8)),
        data_uri(colours(w_hat / largest)),
    )


def colours(values: NDArray[np.float64]) -> Pixels:
    """Values in [-1, 1], (height, width) -> opaque (height, width, 4) RGBA; 0 is near white."""
    t = np.clip(values, -1, 1)[..., None]
    end = np.where(t < 0, NEGATIVE, POSITIVE)
    rgb = ZERO + np.abs(t) * (end - ZERO)
    return np.concatenate([rgb.round(), np.full_like(t, 255)], axis=-1).astype(np.uint8)


def data_uri(pixels: Pixels) -> str:
    """(height, width, 4) RGBA pixels as a PNG in a data URI."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits per channel, RGBA
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # each line unfiltered
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _filter(name: str, values: Sequence[float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    w = np.asarray(values, dtype=np.float64)
    if len(shape) != 2 or w.size != shape[0] * shape[1]:
        raise ValueError(f"the {name} filter has {w.size} weights, which do not fill {shape}")
    if not np.isfinite(w).all():
        raise ValueError(f"the {name} filter holds NaN or infinite weights, which have no colour")
    return w.reshape(shape)
