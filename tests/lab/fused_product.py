"""Compare the kernel with the plain path; run in Triton's interpreter, or on a GPU.

TRITON_INTERPRET=1 python tests/lab/fused_product.py cpu
"""

from __future__ import annotations

import copy
import itertools
import sys

import torch

from weightcast import Grid, Rule, dictionaries, kernels
from weightcast.layers import PredictedLinear
from weightcast_lab.bench.fused import gathered_product, use_kernel

N_VISIBLE, N_ROWS = 48, (1, 150)  # more than a block of rows
KERNEL = kernels.SquaredExponential(2.0)
RULES = {
    "grouped": Rule(dictionaries.RandomConnections("grouped"), 0.25, columns=4),
    "shared atoms": Rule(dictionaries.RandomConnections("random"), 0.5, columns=6),
    "in order": Rule(dictionaries.RandomConnections("grouped"), 1.0),
    "stacked": Rule(dictionaries.RandomGaussian(), 0.25, columns=3),
    "cosines": Rule(dictionaries.DCT(), 0.8, columns=5, grid=Grid((6, 8))),
    "mixed": Rule(dictionaries.Kernel(KERNEL), 0.75, columns=7, grid=Grid((6, 8))),
    "scaled": Rule(
        dictionaries.Kernel(KERNEL, selection="leading"), 0.9, columns=2, grid=Grid((6, 8))
    ),
}
"""48 and 12 atoms, and the first columns of 301 units have one unit more: blocks do not fit."""


def run(layer, x, bias):
    """Output and gradients of x, V and bias, for a gradient that differs everywhere."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * torch.arange(y.numel(), device=y.device).view(y.shape).sin()).sum().backward()
    return [y.detach(), x.grad, layer.V.grad, *([layer.bias.grad] if bias else [])]


def compare(device, dtype, tolerance):
    """Every rule, with and without bias, few rows and many."""
    for (name, rule), bias, n in itertools.product(RULES.items(), (True, False), N_ROWS):
        layer = PredictedLinear(N_VISIBLE, 301, bias=bias, rule=rule, dtype=dtype, device=device)
        x = torch.randn(n, N_VISIBLE, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        layer.path = "factored"
        found = run(use_kernel(copy.deepcopy(layer)), x, bias)
        for one, other in zip(found, run(layer, x, bias), strict=True):
            error = float((one - other).norm() / other.norm())
            assert one.dtype == other.dtype, (name, one.dtype)
            assert one.shape == other.shape, (name, one.shape)
            assert error < tolerance, (name, bias, n, error)
        assert tuple(layer(x.view(n, 1, -1)).shape) == (n, 1, 301)
    print(f"{len(RULES)} rules as the plain path, {dtype}")


def under_compilers(device):
    """What torch.compile, autograd and autocast ask of an operation of one's own."""
    z = torch.randn(6, 8, dtype=torch.float64, device=device, requires_grad=True)
    C = torch.randn(5, 9, dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.randn(9, dtype=torch.float64, device=device, requires_grad=True)
    indices = torch.randint(8, (2, 5), device=device)
    torch.library.opcheck(gathered_product, (z, indices, C, bias, False))
    assert torch.autograd.gradcheck(
        lambda z, C, bias: gathered_product(z, indices, C, bias, False),
        (z, C, bias),
        nondet_tol=1e-9,
    )
    layer = PredictedLinear(N_VISIBLE, 301, rule=RULES["mixed"], device=device)
    x, fused = torch.randn(40, N_VISIBLE, device=device), use_kernel(copy.deepcopy(layer))
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled = torch.compile(fused, fullgraph=True, backend=backend)
    for a, b in zip(run(compiled, x, True), run(layer, x, True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    layer = PredictedLinear(N_VISIBLE, 301, rule=RULES["cosines"], device=device)
    exact, fused = run(layer, x, True), use_kernel(copy.deepcopy(layer))
    # The interpreter multiplies the bits of bfloat16 (Triton 3.7).
    with torch.autocast(device, dtype=torch.bfloat16 if device == "cuda" else torch.float16):
        for ours, plain, c in zip(run(fused, x, True), run(layer, x, True), exact, strict=True):
            assert ours.dtype == plain.dtype
            errors = [float((one - c).norm() / c.norm()) for one in (ours, plain)]
            assert errors[0] < 2 * errors[1] < 0.1, errors
    print("compiled, under autocast, gradients by differences")


if __name__ == "__main__":
    torch.manual_seed(0)
    compare(sys.argv[1], torch.float64, 1e-12)
    compare(sys.argv[1], torch.float32, 1e-5)
    under_compilers(sys.argv[1])
