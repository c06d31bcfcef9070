"""Other people's ways to store a trained matrix in fewer bytes, each from its paper.

Each takes W (n_visible, n_units), what it is given (:class:`Moments`; None does for those that look
at no inputs) and the share of its bytes, in 32-bit numbers, that may be stored. It returns the
matrix that the file gives back, and what it stores. All layers get the same share, biases stay as
they are, nothing is trained; inputs are those of the dense network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightcast_lab.studies.real.bytes_stored import (
    Stored,
    affordable_atoms,
    affordable_entries,
    affordable_rank,
)
from weightcast_lab.studies.real.walk import Moments

Compressed = tuple[Tensor, Stored]

RIDGE = 1e-6
"""Added to the moments' diagonal, in units of its mean."""
ASVD_POWER = 0.5
RATIO, ROUNDS = 2.0, 20
"""Of sparse atoms: those in the base to those a unit takes, and how often both are chosen anew."""


def truncated_svd(W: Tensor, moments: object, share: float) -> Compressed:
    """The leading singular vectors: of this rank nothing is nearer to W (Eckart and Young 1936)."""
    rank = affordable_rank(W.shape, share)
    return _leading(W, rank), Stored(rank * sum(W.shape))


def asvd(W: Tensor, moments: Moments, share: float) -> Compressed:
    """Truncated SVD of S W, S = diag(E|x|)^0.5: inputs that are large count more.

    Yuan et al. 2023, *ASVD: Activation-aware Singular Value Decomposition*, with its default power;
    without its search for a rank of each layer, for all methods share alike.
    """
    rank = affordable_rank(W.shape, share)
    S = moments.magnitude.clamp(min=1e-6 * moments.magnitude.mean())[:, None] ** ASVD_POWER
    return _leading(S * W, rank) / S, Stored(rank * sum(W.shape))


def whitened_svd(W: Tensor, moments: Moments, share: float) -> Compressed:
    """Truncated SVD of S W, S^T S = E[x^T x]: of this rank nothing is nearer to x W.

    Wang et al. 2024, *SVD-LLM*, its truncation-aware whitening; without its update of W afterwards.
    """
    rank = affordable_rank(W.shape, share)
    A, back = in_metric(W, moments)
    return back(_leading(A, rank)), Stored(rank * sum(W.shape))


def sparse_atoms(W: Tensor, moments: Moments, share: float) -> Compressed:
    """S W = D V, D^T D = 1, and every unit has its own few atoms of D.

    By turns V is the largest entries of D^T S W in each column, and D = P Q^T of the SVD of
    (S W) V^T (orthogonal Procrustes), from the leading singular vectors on. So COMPOT (2026), as
    far as its abstract and our notes tell; uniform shares, dense targets, biases untouched.
    """
    A, back = in_metric(W, moments)
    n_base, n_atoms = affordable_atoms(W.shape, share, RATIO, len(A))
    D = _directions(A, n_base)
    V = _largest(D.mT @ A, n_atoms)
    for _ in range(ROUNDS):
        P, _, Q = torch.linalg.svd(A @ V.mT, full_matrices=False)
        D = P @ Q
        V = _largest(D.mT @ A, n_atoms)
    n_units = W.shape[1]
    stored = Stored(n_base * len(W) + n_atoms * n_units, bits=n_base * n_units)
    return back(D @ V), stored


def pruning(W: Tensor, moments: object, share: float) -> Compressed:
    """The largest weights of the layer stay, with a mask of one bit for each place."""
    kept = affordable_entries(W.shape, share)
    places = W.abs().flatten().topk(kept).indices
    mask = torch.zeros(W.numel(), dtype=torch.bool)
    mask[places] = True
    return W * mask.view_as(W), Stored(kept, bits=W.numel())


def wanda(W: Tensor, moments: Moments, share: float) -> Compressed:
    """Of each unit the weights of largest |W| |x|; the others are nought, nothing is mended.

    Sun et al. 2023, *A Simple and Effective Pruning Approach for Large Language Models* (Wanda).
    """
    kept = max(1, affordable_entries(W.shape, share) // W.shape[1])
    mask = _largest(W * moments.square[:, None].sqrt(), kept) != 0
    return W * mask, Stored(kept * W.shape[1], bits=W.numel())


def int8(W: Tensor, moments: object, share: float) -> Compressed:
    """Whole numbers of 8 bits and one scale for 64 weights of a unit; the share is what it is."""
    return _quantised(W, 8, 64)


def int4(W: Tensor, moments: object, share: float) -> Compressed:
    """Whole numbers of 4 bits; a scale and an offset for 64 weights of a unit."""
    return _quantised(W, 4, 64)


@dataclass(frozen=True)
class Peer:
    """One of the methods.

    Args:
        compress: a matrix.
        looks: whether it looks at inputs; else one calibration draw tells all.
        sizes: whether the share is its to choose.
    """

    compress: Callable[[Tensor, Any, float], Compressed]
    looks: bool = True
    sizes: bool = True


PEERS = {
    "truncated SVD": Peer(truncated_svd, looks=False),
    "magnitude pruning": Peer(pruning, looks=False),
    "int8 by groups": Peer(int8, looks=False, sizes=False),
    "int4 by groups": Peer(int4, looks=False, sizes=False),
    "ASVD": Peer(asvd),
    "Wanda": Peer(wanda),
    "whitened SVD": Peer(whitened_svd),
    "sparse atoms by Procrustes": Peer(sparse_atoms),
}


def in_metric(W: Tensor, moments: Moments) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A of |A|² = E|x W|², as few rows as possible, and the way back from there to weights.

    With no more inputs than units A = S W, S^T S = E[x^T x] + ridge. With fewer units
    A^T A = E[(x W)^T (x W)] + ridge W^T W, the same A but for a rotation on the left: every method
    here gives the same matrix, and needs moments of outputs alone.
    """
    ridge = RIDGE * float(moments.square.mean())
    if moments.inputs is not None:
        S = _root(moments.inputs, ridge * torch.eye(len(W)))
        A = (S @ W.double()).float()
        return A, lambda D: torch.linalg.solve_triangular(S, D.double(), upper=True).float()
    assert moments.outputs is not None
    D = W.double()
    R = _root(moments.outputs, ridge * (D.mT @ D))
    return R.float(), lambda A: (
        D @ torch.linalg.solve_triangular(R, A.double(), upper=True)
    ).float()


def _root(moment: Tensor, ridge: Tensor) -> Tensor:
    """S of S^T S = the moment with a ridge, upper triangular."""
    return torch.linalg.cholesky(moment + ridge).mT


def _leading(A: Tensor, rank: int) -> Tensor:
    """The nearest matrix of this rank, by the eigenvectors of the smaller Gram matrix."""
    if len(A) > A.shape[1]:
        return _leading(A.mT, rank).mT
    D = _directions(A, rank)
    return D @ (D.mT @ A)


def _directions(A: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors (n, rank), n no more than A's columns."""
    A = A.double()
    return torch.linalg.eigh(A @ A.mT)[1][:, -rank:].flip(1).float()


def _largest(V: Tensor, n: int) -> Tensor:
    """The n largest entries of each column; nought elsewhere."""
    sizes, place = V.abs(), len(V) - n
    least = np.partition(sizes.mT.contiguous().numpy(), place, axis=1)[:, place]
    return V * (sizes >= torch.from_numpy(least))


def _quantised(W: Tensor, bits: int, group: int) -> Compressed:
    """By torchao: 8 bits symmetric, 4 bits with an offset; the last group is padded."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    n_visible = len(W)
    rows = torch.nn.functional.pad(W.mT, (0, -n_visible % group)).contiguous()
    kind = MappingType.SYMMETRIC if bits == 8 else MappingType.ASYMMETRIC
    low, high = (-127, 127) if bits == 8 else (0, 15)
    code, block = torch.int8 if bits == 8 else torch.uint8, (1, group)
    scale, offset = choose_qparams_affine(rows, kind, block, code, low, high)  # pyright: ignore
    codes = quantize_affine(rows, block, scale, offset, code, low, high)
    back = dequantize_affine(codes, block, scale, offset, code, low, high)
    numbers = scale.numel() * (1 if bits == 8 else 2)
    return back[:, :n_visible].mT, Stored(numbers, bits=bits * W.numel())
