"""The factored path as one Triton kernel: gather, mixed V and bias, in place of three operations.

The plain path writes the gathered atoms, (columns, batch, n_atoms), multiplies, and writes the
output again in rows. The kernel reads x B at the atoms of its column and writes rows of x U V + b.
M goes to V before, once per step: in a kernel it would be done again for every block of rows.

Not measured: no GPU has run it. It is off unless :func:`use_kernel` switches it on, as the
benchmark's path ``fused`` does. Triton is imported here and nowhere else.
"""

# pyright: reportInvalidTypeForm=false
# Triton's constexpr, which pyright cannot see.
from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from weightcast.layers import predicted_layers
from weightcast.weight import PredictedWeight

triton: Any = importlib.import_module("triton")  # which is not there where only a CPU is
tl: Any = importlib.import_module("triton.language")

ROWS, ATOMS, UNITS = 128, 32, 128
"""Of a tile; the atoms of a tile are doubled where they are not summed over."""

Model = TypeVar("Model", bound=nn.Module)


@triton.jit
def _units(size, larger, column, block, UNITS: tl.constexpr):
    """A tile's units, and which of them are the column's: the first columns have one more."""
    start = column * size + tl.minimum(column, larger)
    units = start + block * UNITS + tl.arange(0, UNITS)
    return units, units < start + size + tl.where(column < larger, 1, 0)


@triton.jit
def _atoms(indices, column, first, n_atoms, ATOMS: tl.constexpr):
    """A tile's atoms, which of them exist, and their places among the values."""
    atoms = first + tl.arange(0, ATOMS)
    there = atoms < n_atoms
    return atoms, there, tl.load(indices + column * n_atoms + atoms, mask=there, other=0)


@triton.jit
def _tile(tensor, i, j, row, step, i_there, j_there):
    """tensor[i, j] with zeros where there is nothing."""
    where = tensor + i[:, None].to(tl.int64) * row + j[None, :].to(tl.int64) * step
    there = i_there[:, None] & j_there[None, :]
    return tl.load(where, mask=there, other=0.0)


@triton.jit
def _product(
    z, z_row, z_step, indices, C, bias, y, n, n_atoms, n_units, size, larger,
    BIAS: tl.constexpr, SUM: tl.constexpr,
    ROWS: tl.constexpr, ATOMS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """y = z[:, indices_j] C_j + b: a block of rows, a column j, a block of its units."""
    column, rows = tl.program_id(1), tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    units, own = _units(size, larger, column, tl.program_id(0), UNITS)
    total = tl.zeros((ROWS, UNITS), dtype=SUM)
    for first in range(0, n_atoms, ATOMS):
        atoms, there, places = _atoms(indices, column, first, n_atoms, ATOMS)
        values = _tile(z, rows, places, z_row, z_step, rows < n, there)
        part = _tile(C, atoms, units, n_units, 1, there, own)
        total = tl.dot(values, part, total, input_precision="ieee", out_dtype=SUM)
    if BIAS:
        total += tl.load(bias + units, mask=own, other=0.0).to(SUM)[None, :]
    where = y + rows[:, None].to(tl.int64) * n_units + units[None, :]
    tl.store(where, total.to(y.dtype.element_ty), mask=(rows < n)[:, None] & own[None, :])


@triton.jit
def _values_gradient(
    g, indices, C, dz, dz_row, dz_step, n, n_atoms, n_units, size, larger,
    DISTINCT: tl.constexpr, SUM: tl.constexpr,
    ROWS: tl.constexpr, ATOMS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """dz[:, indices_j] += g_j C_j^T: a block of atoms, a column j, a block of rows."""
    column, rows = tl.program_id(1), tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    atoms, there, places = _atoms(indices, column, tl.program_id(0) * ATOMS, n_atoms, ATOMS)
    total = tl.zeros((ROWS, ATOMS), dtype=SUM)
    for block in range(0, tl.cdiv(size + 1, UNITS)):
        units, own = _units(size, larger, column, block, UNITS)
        outer = _tile(g, rows, units, n_units, 1, rows < n, own)
        part = _tile(C, atoms, units, n_units, 1, there, own)
        total = tl.dot(outer, tl.trans(part), total, input_precision="ieee", out_dtype=SUM)
    where = dz + rows[:, None].to(tl.int64) * dz_row + places[None, :].to(tl.int64) * dz_step
    mask = (rows < n)[:, None] & there[None, :]
    if DISTINCT:
        tl.store(where, total.to(dz.dtype.element_ty), mask=mask)
    else:
        tl.atomic_add(where, total.to(dz.dtype.element_ty), mask=mask)


@triton.jit
def _coefficients_gradient(
    g, z, z_row, z_step, indices, dC, n, n_atoms, n_units, size, larger,
    SUM: tl.constexpr, ROWS: tl.constexpr, ATOMS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """dC_j = z[:, indices_j]^T g_j: a block of atoms, a column j, a block of its units."""
    column = tl.program_id(1)
    atoms, there, places = _atoms(indices, column, tl.program_id(0) * ATOMS, n_atoms, ATOMS)
    units, own = _units(size, larger, column, tl.program_id(2), UNITS)
    total = tl.zeros((ATOMS, UNITS), dtype=SUM)
    for first in range(0, n, ROWS):
        rows = first + tl.arange(0, ROWS)
        values = _tile(z, rows, places, z_row, z_step, rows < n, there)
        outer = _tile(g, rows, units, n_units, 1, rows < n, own)
        total = tl.dot(tl.trans(values), outer, total, input_precision="ieee", out_dtype=SUM)
    where = dC + atoms[:, None].to(tl.int64) * n_units + units[None, :]
    tl.store(where, total.to(dC.dtype.element_ty), mask=there[:, None] & own[None, :])


@torch.library.custom_op("weightcast::gathered_product", mutates_args=())
def gathered_product(
    z: Tensor, indices: Tensor, C: Tensor, bias: Tensor | None, distinct: bool
) -> Tensor:
    """z[:, indices_j] C_j + b for the units of every column j, on a GPU or in the interpreter.

    Args:
        z: (n, n_values), of any strides.
        indices: (columns, n_atoms) int64, contiguous.
        C: (n_atoms, n_units), M_j V_j side by side, of z's dtype.
        bias: (n_units,) or None, of z's dtype.
        distinct: whether no value is taken twice: gradients then are stored, not added up.

    Returns:
        (n, n_units), of z's dtype.
    """
    (n, _), (columns, n_atoms), n_units = z.shape, indices.shape, C.shape[1]
    y = z.new_empty(n, n_units)
    sizes = n, n_atoms, n_units, *divmod(n_units, columns)
    grid = triton.cdiv(-(-n_units // columns), UNITS), columns, triton.cdiv(n, ROWS)
    given = C if bias is None else bias  # a pointer at all
    _product[grid](
        z, *z.stride(), indices, C.contiguous(), given, y, *sizes, bias is not None, _sum(z),
        ROWS, ATOMS, UNITS,
    )  # fmt: skip
    return y


@torch.library.custom_op("weightcast::gathered_values_gradient", mutates_args=())
def values_gradient(
    g: Tensor, indices: Tensor, C: Tensor, n_values: int, by_value: bool, distinct: bool
) -> Tensor:
    """(n, n_values), the gradient of z; with ``by_value`` its values lie row by row, as z's do."""
    (n, n_units), (columns, n_atoms) = g.shape, indices.shape
    dtype = g.dtype if distinct or g.dtype == torch.float64 else torch.float32
    shape = (n_values, n) if by_value else (n, n_values)
    dz = g.new_zeros(shape, dtype=dtype)
    dz = dz.t() if by_value else dz
    sizes = n, n_atoms, n_units, *divmod(n_units, columns)
    grid = triton.cdiv(n_atoms, 2 * ATOMS), columns, triton.cdiv(n, ROWS)
    _values_gradient[grid](
        g, indices, C.contiguous(), dz, *dz.stride(), *sizes, distinct, _sum(g),
        ROWS, 2 * ATOMS, UNITS // 2,
    )  # fmt: skip
    return dz.to(g.dtype)


@torch.library.custom_op("weightcast::gathered_coefficients_gradient", mutates_args=())
def coefficients_gradient(g: Tensor, z: Tensor, indices: Tensor) -> Tensor:
    """(n_atoms, n_units), the gradient of C."""
    (n, n_units), (columns, n_atoms) = g.shape, indices.shape
    dC = g.new_empty(n_atoms, n_units)
    sizes = n, n_atoms, n_units, *divmod(n_units, columns)
    blocks = triton.cdiv(-(-n_units // columns), UNITS)
    _coefficients_gradient[triton.cdiv(n_atoms, 2 * ATOMS), columns, blocks](
        g, z, *z.stride(), indices, dC, *sizes, _sum(g), ROWS // 2, 2 * ATOMS, UNITS
    )
    return dC


@gathered_product.register_fake
def _(z: Tensor, indices: Tensor, C: Tensor, bias: Tensor | None, distinct: bool) -> Tensor:
    return z.new_empty(z.shape[0], C.shape[1])


@values_gradient.register_fake
def _(
    g: Tensor, indices: Tensor, C: Tensor, n_values: int, by_value: bool, distinct: bool
) -> Tensor:
    return g.new_empty(n_values, len(g)).t() if by_value else g.new_empty(len(g), n_values)


@coefficients_gradient.register_fake
def _(g: Tensor, z: Tensor, indices: Tensor) -> Tensor:
    return g.new_empty(indices.shape[1], g.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, indices, C, bias, ctx.distinct = inputs
    ctx.save_for_backward(z, indices, C)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    z, indices, C = ctx.saved_tensors
    g, (of_z, _, of_C, of_bias, _) = g.contiguous(), ctx.needs_input_grad
    by_value = z.stride(0) == 1 and z.stride(1) > 1
    dz = values_gradient(g, indices, C, z.shape[1], by_value, ctx.distinct) if of_z else None
    dC = coefficients_gradient(g, z, indices) if of_C else None
    return dz, None, dC, g.sum(0) if ctx.has_bias and of_bias else None, None


gathered_product.register_autograd(_backward, setup_context=_keep)


def _sum(tensor: Tensor) -> Any:
    """The type in which products are summed up."""
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


@dataclass(frozen=True)
class FusedProduct:
    """What a layer calls in place of its factored path.

    Args:
        distinct: whether no two columns take the same atom.
    """

    distinct: bool

    def __call__(self, layer: PredictedWeight, rows: Tensor, bias: Tensor | None) -> Tensor:
        """x U V + b: (n, n_visible) to (n, n_units), in autocast's dtype where that is on."""
        atoms = layer.atoms
        indices = atoms.indices
        if atoms.stacked is None:
            z = atoms.base.transform(rows).t()
        else:  # U is multiplied out: each column has values of its own
            z = nn.functional.linear(rows, atoms.stacked.flatten(0, 1))
            indices = torch.arange(indices.numel(), device=z.device).view(indices.shape)
        if torch.is_autocast_enabled(z.device.type):
            z = z.to(torch.get_autocast_dtype(z.device.type))
        bias = None if bias is None else bias.to(z.dtype)
        return gathered_product(z, indices, layer.coefficients().to(z.dtype), bias, self.distinct)


def use_kernel(model: Model) -> Model:
    """Let all predicted linear layers of a model compute by the kernel; the model is returned."""
    for layer in predicted_layers(model).values():
        taken = layer.atoms.indices
        layer.product = FusedProduct(
            layer.atoms.stacked is not None or taken.unique().numel() == taken.numel()
        )
    return model
