"""
The dense network's learning rate carries over
==============================================

Adam moves each entry of V by about its learning rate, and so W = U V by that rate times the size
of U's rows, which differs between dictionaries. ``parameter_groups`` divides it out. Here a small
network is trained at many rates, with V at the dense rate and with V's own.
"""

# %%
# Data and training loop
# ----------------------

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc

digits = load_digits()
images = torch.from_numpy(digits.data / 16).float()
labels = torch.from_numpy(digits.target)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))


def loss_after(model: nn.Module, groups: list) -> float:
    """Loss on all digits after 40 steps."""
    optimiser = torch.optim.AdamW(groups)
    torch.manual_seed(1)
    for _ in range(40):
        chosen = torch.randint(len(labels), (100,))
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(images), labels).item()


# %%
# Three dictionaries at seven rates
# ---------------------------------

rates = [1e-3 * 2**k for k in range(-2, 5)]
dictionaries = {
    "KMeans": wc.dictionaries.KMeans(24),
    "Kernel": wc.dictionaries.Kernel(wc.kernels.SquaredExponential(1.0)),
    "DCT": wc.dictionaries.DCT(),
}
dense = []
for rate in rates:
    model = make_model()
    dense.append(loss_after(model, [{"params": model.parameters(), "lr": rate}]))
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True, layout="constrained")
for axis, (name, dictionary) in zip(axes, dictionaries.items(), strict=True):
    rule = wc.Rule(dictionary, fraction=0.1, columns=10, grid=(8, 8))
    plan = {"0": rule, "*": None}
    same, own = [], []
    for rate in rates:
        model = wc.convert(make_model(), plan, inputs=images.split(200), seed=0)
        same.append(loss_after(model, [{"params": model.parameters(), "lr": rate}]))
        model = wc.convert(make_model(), plan, inputs=images.split(200), seed=0)
        own.append(loss_after(model, wc.parameter_groups(model, learning_rate=rate)))
    axis.loglog(rates, dense, color="grey", label="dense")
    axis.loglog(rates, same, linestyle=":", marker="o", label="V at the dense rate")
    axis.loglog(rates, own, marker="o", label="parameter_groups")
    axis.set(title=name, xlabel="learning rate")
    group = wc.parameter_groups(model, learning_rate=1.0)[-1]
    print(f"{name}: V's rate is {group['lr']:.2f} times the dense one")
axes[0].set_ylabel("loss after 40 steps")
axes[0].legend()
plt.show()

# %%
# Rates for SGD and Muon, with numbers of several seeds: :doc:`/choosing`.
