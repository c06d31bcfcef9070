"""pretrain against the tied autoencoder and Adam written out in NumPy, PCA, and NumPy's cov."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.transform.pretrain import pretrain


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # of the dense layers' own initialisation


def correlated(n_rows, n_visible, seed=0):
    """(n_rows, n_visible) float64, within [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_rows, 4)) @ rng.standard_normal((4, n_visible))
    rows = rows + 0.3 * rng.standard_normal((n_rows, n_visible))
    return torch.from_numpy((rows - rows.min()) / (rows.max() - rows.min()))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class NumpyAdam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, values, rates):
        self.values, self.rates = values, rates
        self.m = [np.zeros_like(v) for v in values]
        self.v = [np.zeros_like(v) for v in values]
        self.t = 0

    def step(self, gradients):
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.values[i] -= self.rates[i] * m / (np.sqrt(v) + 1e-8)


def numpy_pretraining(x, U, V, b, loss, steps, rate, learn_U=False):
    """Full batches of a sigmoid layer: (losses, V, b, U); U is (columns, n_visible, n_atoms)."""
    n, columns = len(x), len(U)
    bounds = np.cumsum([0, *[len(part) for part in np.array_split(np.arange(len(b)), columns)]])
    units = [slice(bounds[j], bounds[j + 1]) for j in range(columns)]
    U, V, b = U.copy(), V.copy(), b.copy()
    c = x.mean(axis=0)
    if loss == "cross-entropy":
        c = np.clip(c, 0.01, 0.99)
        c = np.log(c / (1 - c))
    row_norm = np.sqrt((U**2).sum() / (columns * U.shape[1]))
    adam = NumpyAdam([V, b, c, U], [rate / row_norm, rate, rate, rate if learn_U else 0.0])
    losses = []
    for _ in range(steps):
        W = np.concatenate([U[j] @ V[:, units[j]] for j in range(columns)], axis=1)
        h = sigmoid(x @ W + b)
        y = h @ W.T + c
        if loss == "squared":
            losses.append(((y - x) ** 2).sum() / n)
            dy = 2 * (y - x) / n
        else:
            p = sigmoid(y)
            losses.append(-(x * np.log(p) + (1 - x) * np.log(1 - p)).sum() / n)
            dy = (p - x) / n
        da = (dy @ W) * h * (1 - h)
        dW = dy.T @ h + x.T @ da
        dV = np.concatenate([U[j].T @ dW[:, units[j]] for j in range(columns)], axis=1)
        dU = np.stack([dW[:, units[j]] @ V[:, units[j]].T for j in range(columns)])
        adam.step([dV, da.sum(axis=0), dy.sum(axis=0), dU])
    return losses, V, b, U


@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
@pytest.mark.parametrize("dictionary", [d.RandomGaussian(), d.LowRank()], ids=["fixed", "LowRank"])
def test_steps_are_those_of_numpy(loss, dictionary):
    x = correlated(40, 12)
    model = nn.Sequential(nn.Linear(12, 7), nn.Sigmoid(), nn.Linear(7, 2)).double()
    model = wc.convert(model, {"0": wc.Rule(dictionary, 0.5, columns=3)})
    layer = model[0]
    U, V, b = (t.detach().numpy().copy() for t in (layer.atoms.dictionaries(), layer.V, layer.bias))
    learn_U = isinstance(dictionary, d.LowRank)
    (record,) = pretrain(model, x, epochs=5, batch_size=40, learning_rate=0.01, loss=loss)
    losses, V, b, U = numpy_pretraining(x.numpy(), U, V, b, loss, 5, 0.01, learn_U)
    np.testing.assert_allclose(record.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(layer.V.detach(), V, atol=1e-9)
    np.testing.assert_allclose(layer.bias.detach(), b, atol=1e-9)
    np.testing.assert_allclose(layer.atoms.dictionaries().detach(), U, atol=1e-9)


def loop_patches(x, kernel, stride, padding):
    """(positions, channels * kernel**2) by explicit loops."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows = []
    for image in x:
        for i in range(0, image.shape[1] - kernel + 1, stride):
            for j in range(0, image.shape[2] - kernel + 1, stride):
                rows.append(image[:, i : i + kernel, j : j + kernel].ravel())
    return np.stack(rows)


def test_a_convolution_is_trained_on_its_patches():
    x = correlated(6, 2 * 5 * 4).view(6, 2, 5, 4)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2, padding=1), nn.Sigmoid()).double()
    model = wc.convert(model, {"0": wc.Rule(d.DCT(), 0.4, columns=2)})
    layer = model[0]
    U, V, b = (t.detach().numpy().copy() for t in (layer.atoms.dictionaries(), layer.V, layer.bias))
    rows = loop_patches(x.numpy(), 3, 2, 1)
    (record,) = pretrain(model, x.split(4), epochs=4, batch_size=1000, learning_rate=0.01)
    losses, V, b, _ = numpy_pretraining(rows, U, V, b, "squared", 4, 0.01)
    assert record.n_rows == len(rows) == 6 * 3 * 2
    np.testing.assert_allclose(record.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(layer.V.detach(), V, atol=1e-9)
    np.testing.assert_allclose(layer.bias.detach(), b, atol=1e-9)


def test_groups_are_trained_as_so_many_convolutions():
    x = correlated(5, 4 * 5 * 5).view(5, 4, 5, 5)
    whole = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh()).double()
    parts = [nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()).double() for _ in range(2)]
    for i, part in enumerate(parts):
        with torch.no_grad():
            part[0].weight.copy_(whole[0].weight[3 * i : 3 * i + 3])
            part[0].bias.copy_(whole[0].bias[3 * i : 3 * i + 3])
    options = {"layers": ["0"], "epochs": 3, "batch_size": 7, "learning_rate": 0.01}
    (record,) = pretrain(whole, x, **options)
    records = [pretrain(part, x[:, 2 * i : 2 * i + 2], **options) for i, part in enumerate(parts)]
    np.testing.assert_allclose(
        record.losses, np.sum([r.losses for (r,) in records], axis=0), rtol=1e-12
    )
    for name in ("weight", "bias"):
        both = torch.cat([getattr(part[0], name) for part in parts])
        torch.testing.assert_close(getattr(whole[0], name), both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("predicted", [True, False])
def test_a_linear_autoencoder_comes_near_pca_and_never_above(predicted):
    x = correlated(300, 10, seed=3)
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    best = variances[:3].sum() / variances.sum()
    model = nn.Sequential(nn.Linear(10, 3), nn.Identity()).double()
    if predicted:
        model = wc.convert(model, {"0": wc.Rule(d.RandomGaussian("orthonormal"), 1.0)})
    (record,) = pretrain(model, x, epochs=150, batch_size=50, learning_rate=5e-3, layers=["0"])
    assert best - 0.01 < record.reconstructed <= best + 1e-12
    W, b = model[0].weight.detach().numpy(), model[0].bias.detach().numpy()
    y = (x.numpy() @ W.T + b) @ W
    left = (x.numpy() - y) - (x.numpy() - y).mean(axis=0)  # the best c for these weights
    share = 1 - (left**2).sum() / ((x.numpy() - x.numpy().mean(axis=0)) ** 2).sum()
    assert abs(share - record.reconstructed) < 0.01


@pytest.mark.parametrize(
    ("dictionary", "power"), [(d.Covariance(), 1), (d.SquaredCovariance(mixing="raw"), 2)]
)
def test_the_second_layers_atoms_come_from_the_codes_of_the_trained_first(dictionary, power):
    x = correlated(90, 16)
    model = nn.Sequential(nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Sigmoid()).double()
    plan = {"0": wc.Rule(d.DCT(), 0.5, grid=(4, 4)), "2": wc.Rule(dictionary, 0.5, columns=2)}
    model = wc.convert(model, plan, inputs=x, seed=4)
    before = copy.deepcopy(model[2])
    pretrain(model, x.split(32), epochs=3, learning_rate=0.01, seed=4)
    W, b = model[0].weight.detach().numpy(), model[0].bias.detach().numpy()
    codes = sigmoid(x.numpy() @ W.T + b)
    np.testing.assert_allclose(
        model[2].atoms.base.atoms.numpy(), np.cov(codes.T**power), rtol=1e-9, atol=1e-15
    )
    assert not torch.allclose(model[2].atoms.base.atoms, before.atoms.base.atoms, rtol=1e-3)
    assert torch.equal(model[2].atoms.indices, before.atoms.indices)  # the same draw as convert's
