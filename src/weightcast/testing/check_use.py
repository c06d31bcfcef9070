"""What a layer must do that is predicted from a dictionary, and a network that holds it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from weightcast.storage import load, save
from weightcast.testing.require import require, require_close, require_copies
from weightcast.testing.tried import Checks, TriedDictionary


def _learns(tried: TriedDictionary) -> None:
    layer, x = tried.layer(), tried.rows()
    outputs, gradients = [], []
    for path in ("factored", "materialised"):
        layer.path = path
        outputs.append(layer(x))
        gradients += torch.autograd.grad(outputs[-1].square().sum(), [layer.V])
    require_close(outputs[1], outputs[0], 1e-8, "the output along the materialised path")
    require_close(gradients[1], gradients[0], 1e-8, "V's gradient along the materialised path")
    dead = int((gradients[0].abs().sum(dim=0) == 0).sum())
    require(dead == 0, f"{dead} of {layer.n_units} units get no gradient")


def _fits(tried: TriedDictionary) -> None:
    layer, W = tried.layer(), tried.rows(7)
    unexplained = layer.fit(W)
    residual = W - layer.weight.detach()
    expected = float(residual.square().sum() / W.square().sum())
    require(
        abs(unexplained - expected) < 1e-8,
        f"fit says that {unexplained:.6f} of W is left, and it is {expected:.6f}",
    )
    for unit, column in enumerate(layer.unit_columns.tolist()):
        U = layer.atoms.dictionary(column).detach()
        left = float((residual[unit] @ (U / U.norm(dim=0))).abs().max())
        require(left < 1e-6, f"unit {unit}'s residual is not orthogonal to U: {left:.3g} left")


def _starts_well(tried: TriedDictionary) -> None:
    weights = [tried.layer(n_units=600, seed=seed).weight.detach() for seed in range(3)]
    ratio = float(torch.stack(weights).square().mean()) * 3 * tried.n_visible
    require(
        0.85 < ratio < 1.15,
        f"the weights' mean square is {ratio:.2f} times that of nn.Linear, expected 1",
    )


def _copies(tried: TriedDictionary) -> None:
    require_copies(tried.layer(seed=1), tried.layer(seed=2), [tried.rows()])


def _saves(tried: TriedDictionary) -> None:
    model, x = nn.Sequential(tried.layer()), tried.rows()
    dense = nn.utils.skip_init(nn.Linear, tried.n_visible, 7, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # So small a layer may take more room than a dense one.
        warnings.simplefilter("ignore", UserWarning)
        save(model, Path(folder) / "model")
        loaded = load(Path(folder) / "model", nn.Sequential(dense))
    require_close(loaded(x), model(x), 1e-8, "the loaded network's output")


USE_CHECKS: Checks = {
    "a predicted layer learns by it": _learns,
    "fitting a layer is the least-squares projection": _fits,
    "a layer has the dense layer's variance at first": _starts_well,
    "a layer copies, pickles and loads its state": _copies,
    "a saved network loads to the same outputs": _saves,
}
"""What must hold of a layer."""
