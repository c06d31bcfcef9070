"""
Atoms from scikit-learn
=======================

Any fitted scikit-learn estimator whose ``inverse_transform`` is affine is a dictionary: parts,
components or cluster centres of unlabelled data become the atoms of a layer that is then trained
on labels.
"""

# %%
# Three estimators, fitted without labels
# ---------------------------------------

import matplotlib.pyplot as plt
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF, PCA
from torch import nn

import weightcast as wc

digits = load_digits()
pixels = digits.data / 16
estimators = {
    "NMF": NMF(24, init="nndsvda", max_iter=1000, tol=1e-3, random_state=0).fit(pixels),
    "PCA": PCA(24, random_state=0).fit(pixels),
    "MiniBatchKMeans": MiniBatchKMeans(24, n_init=3, random_state=0).fit(pixels),
}

# %%
# Their atoms
# -----------
#
# ``fraction`` says how many each unit mixes: 16 of 64 inputs are a quarter.

images = torch.from_numpy(pixels).float()
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]


def make_model(estimator) -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    rule = wc.Rule(wc.dictionaries.FromEstimator(estimator), fraction=0.25, columns=5)
    return wc.convert(dense, {"0": rule, "*": None}, seed=0)


models = {name: make_model(estimator) for name, estimator in estimators.items()}
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for row, (name, model) in zip(axes, models.items(), strict=True):
    for axis, atom in zip(row, model[0].atoms.dictionary(0).T, strict=False):
        axis.imshow(atom.view(8, 8), cmap="RdBu_r", vmin=-atom.abs().max(), vmax=atom.abs().max())
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# Trained on labels
# -----------------

for name, model in models.items():
    optimiser = torch.optim.AdamW(wc.parameter_groups(model, learning_rate=3e-3))
    for _ in range(30):
        for chosen in train[torch.randperm(len(train))].split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    with torch.no_grad():
        wrong = (model(images[test]).argmax(1) != labels[test]).float().mean()
    learned = wc.ledger(model).total.learned
    print(f"{name}: {100 * wrong:.1f} % errors on test digits, {learned:,} learned weights")
