"""Factorised layers of tensorly-torch (CP, Tucker, tensor train) with a given number of weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Ranks = tuple[int, ...]


def factorised(layer: Any, n_weights: int, kind: str, implementation: str) -> nn.Module:
    """A tensorly-torch layer in place of a dense one, whose W starts with the same variance.

    A linear layer's W is reshaped to a tensor of three input and three output axes, as the
    package's own ``get_tensorized_shape`` does it.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv2d``.
        n_weights: to learn, biases left out; ranks come as near as they can.
        kind: ``CP``, ``Tucker`` or ``TT`` (block tensor train for linear layers).
        implementation: ``factorized`` contracts with the factors, ``reconstructed`` builds W.
    """
    tltorch = importlib.import_module("tltorch")
    if isinstance(layer, nn.Linear):
        make = importlib.import_module("tltorch.utils").get_tensorized_shape
        inputs, outputs = make(layer.in_features, layer.out_features, order=3, verbose=False)
        ranks = linear_ranks(kind, tuple(inputs), tuple(outputs), n_weights)
        stand_in = tltorch.FactorizedLinear(
            tuple(inputs),
            tuple(outputs),
            bias=layer.bias is not None,
            factorization={"TT": "BlockTT"}.get(kind, kind),
            rank=ranks[0] if kind == "CP" else ranks,
            implementation=implementation,
        )
    else:
        ranks = convolution_ranks(kind, tuple(layer.weight.shape), n_weights)
        stand_in = tltorch.FactorizedConv(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            padding=layer.padding[0],
            bias=layer.bias is not None,
            factorization=kind.lower(),
            rank=ranks[0] if kind == "CP" else ranks,
            implementation=implementation,
        )
    _start_as(layer, stand_in)
    return stand_in


def linear_ranks(kind: str, inputs: Sequence[int], outputs: Sequence[int], n_weights: int) -> Ranks:
    """Ranks at which a tensorised linear layer holds about ``n_weights``.

    Args:
        kind: ``CP``, ``Tucker`` or ``TT``.
        inputs: extents of the input axes.
        outputs: extents of the output axes.
        n_weights: to come near to.

    Returns:
        CP: the one rank. Tucker: one per axis, outputs first. TT: one per border, the outer ones 1.
    """
    if kind == "TT":
        return _train_ranks([i * o for i, o in zip(inputs, outputs, strict=True)], n_weights)
    return _other_ranks(kind, (*outputs, *inputs), n_weights)


def convolution_ranks(kind: str, shape: Sequence[int], n_weights: int) -> Ranks:
    """The same for a convolution's weights (units, channels, *kernel_size).

    Args:
        kind: ``CP``, ``Tucker`` or ``TT``.
        shape: of the weights.
        n_weights: to come near to.
    """
    if kind == "TT":  # the package's order: channels, kernel, units
        return _train_ranks([*shape[1:], shape[0]], n_weights)
    return _other_ranks(kind, tuple(shape), n_weights)


def count_weights(kind: str, extents: Sequence[int], ranks: Sequence[int]) -> int:
    """Weights of a factorisation.

    Args:
        kind: ``CP``, ``Tucker`` or ``TT``.
        extents: of the tensor's axes; of TT, input times output extent of each of its factors.
        ranks: as :func:`linear_ranks` returns them.
    """
    if kind == "CP":
        return ranks[0] * (sum(extents) + 1)  # and a weight for each component
    if kind == "Tucker":
        return math.prod(ranks) + sum(n * r for n, r in zip(extents, ranks, strict=True))
    return sum(a * n * b for a, n, b in zip(ranks[:-1], extents, ranks[1:], strict=True))


def _other_ranks(kind: str, extents: Ranks, n_weights: int) -> Ranks:
    if kind == "CP":
        return (max(1, round(n_weights / (sum(extents) + 1))),)
    most = extents

    def at(share: float) -> Ranks:
        return tuple(min(m, max(1, round(share * m))) for m in most)

    return _refine(lambda ranks: count_weights(kind, extents, ranks), at, most, n_weights)


def _train_ranks(extents: list[int], n_weights: int) -> Ranks:
    """Equal inner ranks first; none above what any tensor of these extents needs."""
    inner = range(1, len(extents))
    most = tuple(min(math.prod(extents[:i]), math.prod(extents[i:])) for i in inner)
    largest = max(most)

    def at(share: float) -> Ranks:
        return tuple(min(m, max(1, round(share * largest))) for m in most)

    def count(ranks: Ranks) -> int:
        return count_weights("TT", extents, (1, *ranks, 1))

    return (1, *_refine(count, at, most, n_weights), 1)


def _refine(
    count: Callable[[Ranks], int], at: Callable[[float], Ranks], most: Ranks, target: int
) -> Ranks:
    """The largest even ranks that stay below the target, then single steps that come nearer."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if count(at(middle)) <= target else (low, middle)
    ranks = at(low)
    while True:
        steps = [
            (*ranks[:i], ranks[i] + step, *ranks[i + 1 :])
            for i in range(len(ranks))
            for step in (-1, 1)
            if 1 <= ranks[i] + step <= most[i]
        ]
        best = min(steps, key=lambda r: abs(count(r) - target), default=ranks)
        if abs(count(best) - target) >= abs(count(ranks) - target):
            return ranks
        ranks = best


@torch.no_grad()
def _start_as(layer: Any, stand_in: Any) -> None:
    """Draw the factors so that W has the dense layer's variance, and take its bias.

    The package's own ``normal_`` misses the variance it is asked for, a tensor train's by orders of
    magnitude: the factors are scaled to it.
    """
    deviation = float(layer.weight.std())
    stand_in.weight.normal_(0, deviation)
    factors = [p for name, p in stand_in.named_parameters() if name != "bias"]
    scaled = [p for p in factors if p.dim() > 1]
    actual = float(_entries(stand_in.weight).std())
    for factor in scaled:
        factor.mul_((deviation / actual) ** (1 / len(scaled)))
    if layer.bias is not None:
        stand_in.bias.copy_(layer.bias)


def _entries(weight: Any) -> torch.Tensor:
    return (weight.to_matrix() if hasattr(weight, "to_matrix") else weight.to_tensor()).detach()
