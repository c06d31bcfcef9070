"""cost: the work of building a layer's dictionary again, counted before anything is built.

A rule of a few words can ask for more work than the rest of a folder suggests: a matrix for each
of many columns, the eigenvectors of a large one. The unit is a multiply-add of a large product;
numbers that are made, and matrices that are decomposed, count as what takes about as long.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from weightcast.dictionaries import (
    DCT,
    Dictionary,
    Fourier,
    Kernel,
    KroneckerBase,
    LocalKernel,
    Wavelet,
)
from weightcast.dictionaries.kernel import LARGE
from weightcast.dictionaries.local import lattice_counts
from weightcast.dictionaries.mixing import block_size
from weightcast.grid import Grid
from weightcast.kernels import ScikitLearnKernel, n_kernels
from weightcast.storage.manifest import FormatError

ALLOWED = 2**35
"""For any model: about a second on one core, or some 256 MiB of numbers."""
ALLOWED_PER_WEIGHT = 2**13
"""For each weight of the dense model: it took as much to convert a large model."""

_NUMBER = 2**10  # a float64 that is made: more than the time, so that memory is bounded as well
_CUBE = 20  # n^3 times this: a decomposition of an (n, n) matrix
_CALL = 2**12 * _NUMBER  # one small decomposition, however small


class Allowance:
    """What building dictionaries may take in all.

    Args:
        model: that is loaded into.
        trusted: allow anything.
    """

    def __init__(self, model: nn.Module, *, trusted: bool) -> None:
        n_weights = sum(parameter.numel() for parameter in model.parameters())
        self.most = math.inf if trusted else ALLOWED + ALLOWED_PER_WEIGHT * n_weights
        self.spent = 0

    def spend(self, work: int, name: str) -> None:
        """Take the work of one layer.

        Args:
            work: in multiply-adds.
            name: of the layer.

        Raises:
            FormatError: it is more than is left.
        """
        self.spent += work
        if self.spent > self.most:
            raise FormatError(
                f"is not loaded: building the dictionary of layer {name!r} takes about {work:.1e} "
                f"multiply-adds, and all those of a model of this size may take {self.most:.1e}. "
                "If the folder is your own, load it with trusted=True, or save it with "
                'bases="store", which leaves nothing to be built'
            )


def building(dictionary: Dictionary, grid: Grid | None, n_visible: int, indices: Tensor) -> int:
    """Multiply-adds of building the atoms again, and of taking their fingerprint.

    A dictionary that is not of this package counts nothing: it is code that the user chose.

    Args:
        dictionary: that is rebuildable.
        grid: of the layer's inputs, if it has one.
        n_visible: the layer's number of inputs.
        indices: (columns, n_atoms) int64, as the file has them.

    Raises:
        ValueError: indices that the base does not have, or a grid of another size.
    """
    grid = (grid or Grid((n_visible,))).check(n_visible)
    probing = 4 * (indices.numel() + n_visible) * _NUMBER
    if isinstance(dictionary, Kernel):
        return probing + _kernel(dictionary, grid, indices)
    if isinstance(dictionary, LocalKernel):
        return probing + _local(grid, indices)
    if isinstance(dictionary, Wavelet):
        n = grid.n_points
        return probing + 8 * n**2 * _NUMBER + _CUBE * n**3 + _stacking_by_axes(grid, [n], indices)
    if isinstance(dictionary, (DCT, Fourier)):
        made = sum(n**2 for n in grid.shape) * _NUMBER
        return probing + made + _stacking_by_axes(grid, grid.shape, indices)
    return probing


def stacking(multiply_adds: int, n_visible: int, indices: Tensor) -> int:
    """Multiply-adds of multiplying U out, where a base is so dear that this is done.

    Args:
        multiply_adds: of the base, per example.
        n_visible: the layer's number of inputs.
        indices: (columns, n_atoms).
    """
    numbers = indices.numel() * n_visible
    return numbers * (_NUMBER + indices.shape[1]) if numbers < multiply_adds else 0


def check_width(base: KroneckerBase, columns: int, name: str) -> None:
    """Refuse a base with far more atoms than the columns can be for.

    Args:
        base: of factors that may be small: their numbers of atoms multiply.
        columns: of the layer.
        name: of the layer.

    Raises:
        FormatError: that it has.
    """
    # Windows lie on a lattice of fewer than 2 * columns cells, each with n_visible atoms at most.
    if base.n_base > 2 * columns * base.n_visible:
        raise FormatError(
            f"does not fit: the base of layer {name!r} has {base.n_base:.1e} atoms, {columns} "
            f"columns of {base.n_visible} inputs need {2 * columns * base.n_visible} at most"
        )


def _kernel(dictionary: Kernel, grid: Grid, indices: Tensor) -> int:
    kernel = dictionary.kernel
    sizes = grid.shape if getattr(kernel, "separable", False) else (grid.n_points,)
    each = 4 * n_kernels(kernel.kernel) if isinstance(kernel, ScikitLearnKernel) else 1
    work = sum(n**2 for n in sizes) * each * _NUMBER + _stacking_by_axes(grid, sizes, indices)
    if dictionary.selection == "leading":
        return work + _CUBE * sum(n**3 for n in sizes)
    _check_range(indices, grid.n_visible)
    return work if dictionary.mixing == "raw" else work + _mixing(dictionary.mixing, grid, indices)


def _mixing(mixing: str, grid: Grid, indices: Tensor) -> int:
    """Matrices (size, size) to decompose: one for each column, or for each channel of each."""
    columns, size = indices.shape
    n_matrices, n_seen = columns, grid.n_visible
    if grid.channels > 1:
        fullest = block_size(indices // grid.n_points, grid.channels)
        apart = fullest == 1 or (size >= LARGE and grid.channels * fullest**2 < size**2)
        if apart:
            n_matrices, size, n_seen = columns * grid.channels, fullest, grid.n_points
    longer = n_seen + size if mixing == "orthonormal" else size  # of the matrix's two sides
    return n_matrices * (4 * size * longer * _NUMBER + _CUBE * size**2 * longer)


def _local(grid: Grid, indices: Tensor) -> int:
    columns, n_atoms = indices.shape
    counts = lattice_counts(columns, grid.shape)
    windows = sum(
        count * (2 * n**2 * _NUMBER + _CUBE * n**3 + _CALL)
        for count, n in zip(counts, grid.shape, strict=True)
    )
    sorting = columns * (grid.n_visible * _NUMBER + _CALL)
    chosen = columns * n_atoms * len(grid.shape) * _NUMBER
    n_base = grid.n_visible * math.prod(counts)
    sizes = [count * n for count, n in zip(counts, grid.shape, strict=True)]
    dear = sum(
        grid.channels * math.prod(grid.shape[: axis + 1]) * math.prod(sizes[axis:])
        for axis in range(len(sizes))
    )
    probing = 4 * n_base * _NUMBER
    return windows + sorting + chosen + probing + stacking(dear, grid.n_visible, indices)


def _stacking_by_axes(grid: Grid, sizes: tuple[int, ...] | list[int], indices: Tensor) -> int:
    """:func:`stacking` of a base with a square factor of each of these sizes."""
    return stacking(grid.n_visible * sum(sizes), grid.n_visible, indices)


def _check_range(indices: Tensor, n_base: int) -> None:
    """Refuse what would have each index counted up to the largest."""
    if int(indices.max()) >= n_base:
        raise ValueError(f"indices run to {int(indices.max())}, but the base has {n_base} atoms")
