"""
Shrink a network that is trained already
========================================

``compress`` replaces trained layers by predicted ones, with V in closed form. Given example
inputs, it keeps what each layer *puts out* rather than its weights. Here that is compared for a
small convolutional network, at several sizes, without any further training.
"""

# %%
# A trained network
# -----------------

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc

digits = load_digits()
images = torch.from_numpy(digits.images / 16).float()[:, None]  # (1797, 1, 8, 8)
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]
torch.manual_seed(0)
trained = nn.Sequential(
    *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()),
    *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
)
optimiser = torch.optim.AdamW(trained.parameters(), 2e-3)
for _ in range(10):
    for chosen in train[torch.randperm(len(train))].split(50):
        optimiser.zero_grad()
        nn.functional.cross_entropy(trained(images[chosen]), labels[chosen]).backward()
        optimiser.step()


def error(model: nn.Module) -> float:
    with torch.no_grad():
        return 100 * (model(images[test]).argmax(1) != labels[test]).float().mean().item()


# %%
# Smaller and smaller
# -------------------
#
# ``suggest`` shares a budget of stored numbers among the layers, and picks each one's dictionary.

batches = images[train].split(100)
shares = (0.04, 0.08, 0.16, 0.32)
errors: dict[str, list[float]] = {"with inputs": [], "weights alone": []}
for share in shares:
    plan = wc.suggest(trained, budget=share, inputs=batches, count="stored", progress=False)
    small = wc.compress(trained, plan, inputs=batches, progress=False)
    errors["with inputs"].append(error(small))
    plan = wc.suggest(trained, budget=share, count="stored", progress=False)
    errors["weights alone"].append(error(wc.compress(trained, plan, progress=False)))

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
percent = [100 * share for share in shares]
for name, found in errors.items():
    axis.plot(percent, found, marker="o", label=f"compress, {name}")
axis.axhline(error(trained), color="grey", linestyle=":", label="dense")
axis.set(xlabel="numbers stored, % of the dense network's", ylabel="errors on 597 test digits, %")
axis.set(xscale="log", yscale="log")
axis.set_xticks(percent, [f"{x:g}" for x in percent])
axis.minorticks_off()
axis.legend()
plt.show()

# %%
# What each layer lost
# --------------------

plan = wc.suggest(trained, budget=0.1, inputs=batches, count="stored", progress=False)
small = wc.compress(trained, plan, inputs=batches, progress=False)
print(wc.compression_report(trained, small, inputs=[images[test]]))
