"""
What the atoms of a dictionary look like
========================================

A layer's weights are W = U V. The columns of U are its *atoms*: filters that are fixed before
training, of which each unit learns a mixture. Here are some atoms of several dictionaries for a
layer that looks at images of 28 x 28 pixels, and the filters that they make with random V: what a
unit may look like before it has learned anything.
"""

# %%
# The same layer from five dictionaries
# -------------------------------------
#
# Each layer has 100 units and learns 5 % of its weights: 39 numbers for each unit in place of 784.

import matplotlib.pyplot as plt

import weightcast as wc
from weightcast.kernels import SquaredExponential

dictionaries = {
    "LocalKernel": wc.dictionaries.LocalKernel(SquaredExponential(2.0)),
    "Kernel": wc.dictionaries.Kernel(SquaredExponential(2.0)),
    "DCT, leading": wc.dictionaries.DCT(selection="leading"),
    "DCT, random": wc.dictionaries.DCT(),
    "RandomConnections": wc.dictionaries.RandomConnections(),
}
layers = {
    name: wc.PredictedLinear(
        784, 100, dictionary=dictionary, fraction=0.05, columns=20, grid=(28, 28)
    )
    for name, dictionary in dictionaries.items()
}

# %%
# Atoms
# -----
#
# ``atoms.dictionary(column)`` multiplies U of one column out, (n_visible, n_atoms); training
# never does.

figure, axes = plt.subplots(len(layers), 8, figsize=(8, 5.4), layout="constrained")
for row, (name, layer) in zip(axes, layers.items(), strict=True):
    for i, axis in enumerate(row):
        column = i % 4 * 5
        atom = layer.atoms.dictionary(column)[:, i // 4].view(28, 28)
        limit = atom.abs().max()
        axis.imshow(atom, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("Two atoms from each of four columns")
plt.show()

# %%
# Filters
# -------
#
# ``layer.weight`` is W in torch's layout. Smooth dictionaries give smooth filters, windows local
# ones.

figure, axes = plt.subplots(len(layers), 8, figsize=(8, 5.4), layout="constrained")
for row, (name, layer) in zip(axes, layers.items(), strict=True):
    for filter_, axis in zip(layer.weight.detach()[::13], row, strict=True):
        limit = filter_.abs().max()
        axis.imshow(filter_.view(28, 28), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("Filters of eight units, with V as it is drawn")
plt.show()
