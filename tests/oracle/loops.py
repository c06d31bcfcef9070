"""The method in explicit NumPy loops, written from its description and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def squared_exponential(distance: float, length_scale: float) -> float:
    return math.exp(-(distance**2) / (2 * length_scale**2))


def exponential(distance: float, length_scale: float) -> float:
    return math.exp(-distance / length_scale)


def matern(distance: float, length_scale: float, nu: float) -> float:
    t = math.sqrt(2 * nu) * distance / length_scale
    return ((1 + t) if nu == 1.5 else (1 + t + t * t / 3)) * math.exp(-t)


def coordinates(shape: Sequence[int], channels: int = 1) -> list[tuple[int, tuple[int, ...]]]:
    """(channel, point) of every input, channel-major and row-major."""
    return [(channel, point) for channel in range(channels) for point in np.ndindex(*shape)]


def kernel_matrix(k: Callable[[float], float], shape: Sequence[int], channels: int = 1) -> Array:
    """K of all inputs; inputs in different channels are uncorrelated."""
    places = coordinates(shape, channels)
    K = np.zeros((len(places), len(places)))
    for i, (channel_i, a) in enumerate(places):
        for j, (channel_j, b) in enumerate(places):
            if channel_i == channel_j:
                squares = 0.0
                for p, q in zip(a, b, strict=True):
                    squares += (p - q) ** 2
                K[i, j] = k(math.sqrt(squares))
    return K


def dct_atom(t: int, frequency: int, n: int) -> float:
    """Orthonormal DCT-II along one axis."""
    norm = math.sqrt((1 if frequency == 0 else 2) / n)
    return norm * math.cos(math.pi * (2 * t + 1) * frequency / (2 * n))


def fourier_atom(t: int, index: int, n: int) -> float:
    """1, cos 1, sin 1, cos 2, ... along one axis, each of norm 1."""
    frequency = (index + 1) // 2
    phase = 2 * math.pi * frequency * t / n
    if frequency == 0:
        return 1 / math.sqrt(n)
    if 2 * frequency == n:
        return math.cos(phase) / math.sqrt(n)
    return math.sqrt(2 / n) * (math.cos(phase) if index % 2 else math.sin(phase))


def transform_base(
    atom: Callable[[int, int, int], float], shape: Sequence[int], channels: int = 1
) -> Array:
    """B of a transform along every axis of every channel."""
    places = coordinates(shape, channels)
    B = np.zeros((len(places), len(places)))
    for i, (channel_i, t) in enumerate(places):
        for j, (channel_j, f) in enumerate(places):
            if channel_i == channel_j:
                value = 1.0
                for axis, n in enumerate(shape):
                    value *= atom(t[axis], f[axis], n)
                B[i, j] = value
    return B


def covariance(rows: Array) -> Array:
    """Unbiased covariance of the columns of ``rows``."""
    n_rows, n = rows.shape
    mean = [sum(rows[r, i] for r in range(n_rows)) / n_rows for i in range(n)]
    K = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            for r in range(n_rows):
                K[i, j] += (rows[r, i] - mean[i]) * (rows[r, j] - mean[j]) / (n_rows - 1)
    return K


def ridge_mixing(K: Array, indices: Array, ridge: float) -> Array:
    """(K[indices, indices] + ridge I)^-1."""
    n = len(indices)
    gram = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            gram[a, b] = K[indices[a], indices[b]] + (ridge if a == b else 0)
    return np.linalg.inv(gram)


def orthonormal_mixing(B: Array, indices: Array) -> Array:
    """(A^T A)^(-1/2) of the chosen atoms A = B[:, indices]."""
    n = len(indices)
    gram = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            gram[a, b] = float(B[:, indices[a]] @ B[:, indices[b]])
    values, vectors = np.linalg.eigh(gram)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def column_of_unit(n_units: int, columns: int) -> list[int]:
    """Contiguous groups; the first n_units % columns have one unit more."""
    owners: list[int] = []
    for column in range(columns):
        size = n_units // columns + (1 if column < n_units % columns else 0)
        owners += [column] * size
    return owners


def predicted_weight(B: Array, indices: Array, mixing: Array | None, V: Array) -> Array:
    """W[:, u] = B[:, indices_j] M_j V[:, u], j the column of unit u: (n_visible, n_units)."""
    columns, n_atoms = indices.shape
    n_units = V.shape[1]
    W = np.zeros((B.shape[0], n_units))
    for unit, column in enumerate(column_of_unit(n_units, columns)):
        for a in range(n_atoms):
            weight = 0.0
            for b in range(n_atoms):
                m = float(a == b) if mixing is None else mixing[column, a, b]
                weight += m * V[b, unit]
            for i in range(B.shape[0]):
                W[i, unit] += B[i, indices[column, a]] * weight
    return W


def linear(x: Array, W: Array, bias: Array | None) -> Array:
    """Y = x W + b for x (batch, n_visible)."""
    y = np.zeros((x.shape[0], W.shape[1]))
    for n in range(x.shape[0]):
        for unit in range(W.shape[1]):
            for i in range(W.shape[0]):
                y[n, unit] += x[n, i] * W[i, unit]
            if bias is not None:
                y[n, unit] += bias[unit]
    return y


def conv2d(
    x: Array,
    W: Array,
    bias: Array | None,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Cross-correlation of x (batch, channels, rows, columns) with the filters W, zero padded."""
    batch, channels, height, width = x.shape
    n_units, each = W.shape[1], channels // groups
    rows = (height + 2 * padding[0] - dilation[0] * (kernel_size[0] - 1) - 1) // stride[0] + 1
    cols = (width + 2 * padding[1] - dilation[1] * (kernel_size[1] - 1) - 1) // stride[1] + 1
    y = np.zeros((batch, n_units, rows, cols))
    for n, unit, row, col in np.ndindex(*y.shape):
        first_channel = unit // (n_units // groups) * each
        total = 0.0 if bias is None else bias[unit]
        for i, (channel, (p, q)) in enumerate(coordinates(kernel_size, each)):
            r = row * stride[0] - padding[0] + p * dilation[0]
            c = col * stride[1] - padding[1] + q * dilation[1]
            if 0 <= r < height and 0 <= c < width:
                total += x[n, first_channel + channel, r, c] * W[i, unit]
        y[n, unit, row, col] = total
    return y


def pivoted_cholesky(K: Array, count: int) -> list[int]:
    """Greedy pivots by remaining variance, from the Schur complement itself."""
    chosen: list[int] = []
    remaining = K.copy()
    for _ in range(count):
        best = -1
        for i in range(len(K)):
            if i not in chosen and (best < 0 or remaining[i, i] > remaining[best, best]):
                best = i
        chosen.append(best)
        column = remaining[:, best].copy()
        remaining = remaining - np.outer(column, column) / column[best]
    return chosen
