"""
A dictionary of your own
========================

One frozen dataclass with one method. Here: Gabor patches, the filters that neurons of the visual
cortex respond to, at random places, orientations and sizes. Columns, conversion, saving and the
ledger come with it.
"""

# %%
# The class
# ---------

from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from torch import nn

import weightcast as wc
from weightcast.dictionaries import Atoms, DenseBase, Dictionary, Site
from weightcast.dictionaries.base import check_enough
from weightcast.testing import check_dictionary


@dataclass(frozen=True)
class Gabor(Dictionary):
    """Waves under a Gaussian, at random on the layer's grid.

    Args:
        width: of the Gaussian, in grid cells.
    """

    width: float = 2.0

    def build(self, site: Site) -> Atoms:
        """Each column has patches of its own; all randomness comes from the site's generator."""
        check_enough(self, site.n_atoms, site.n_visible)
        coordinates = site.require_grid(self).coordinates()  # (n_visible, 2), in cells
        count = site.columns * site.n_atoms
        draw = torch.rand(4, count, dtype=torch.float64, generator=site.generator)
        centre = coordinates.amax(0)[:, None] * draw[:2]  # (2, count)
        angle, phase = torch.pi * draw[2], 2 * torch.pi * draw[3]
        y, x = (coordinates[:, :, None] - centre).unbind(1)  # (n_visible, count) each
        wave = torch.cos(2 / self.width * (x * angle.cos() + y * angle.sin()) + phase)
        patches = torch.exp(-(x**2 + y**2) / (2 * self.width**2)) * wave
        indices = site.choose(lambda: torch.arange(count).view(site.columns, site.n_atoms))
        return Atoms(DenseBase((patches / patches.norm(dim=0)).T), indices)


# %%
# Is it sound?
# ------------
#
# ``check_dictionary`` tries seeds, shapes, gradients, copies and saving, and says what is wrong.

check_dictionary(Gabor())

# %%
# Its atoms, and a network that uses them
# ---------------------------------------

rule = wc.Rule(Gabor(width=3.0), fraction=0.05, columns=10, grid=(28, 28))
dense = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
model = wc.convert(dense, {"0": rule, "*": None}, seed=0)
print(wc.ledger(model))

figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for i, axis in enumerate(axes.flat):
    atom = model[0].atoms.dictionary(i % 10)[:, i // 10].view(28, 28)
    axis.imshow(atom, cmap="RdBu_r", vmin=-atom.abs().max(), vmax=atom.abs().max())
    axis.set(xticks=[], yticks=[])
plt.show()
