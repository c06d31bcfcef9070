"""
Adapt a trained network
=======================

A network that was trained for something else stays frozen; each layer becomes W0 + U V, with U from
its inputs and V learned. Beside it: LoRA's form, whose two factors both learn, all weights, and the
last layer alone.
"""

# %%
# A network and another task
# --------------------------
#
# It was trained on upright digits. Now they lie on their side.

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc

digits = load_digits()
upright = torch.from_numpy(digits.images / 16).float()
turned = upright.rot90(1, (1, 2))
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, aside, test = order.split([1000, 200, 597])


def learn(model, images, rate, steps, measured):
    """Train on batches of 50; the error in percent on other images, every ten steps."""
    generator, errors = torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam(wc.parameter_groups(model, rate))
    for step in range(steps + 1):
        if step % 10 == 0:
            with torch.no_grad():
                wrong = model(images[measured]).argmax(1) != labels[measured]
            errors.append(100 * float(wrong.float().mean()))
        batch = train[torch.randint(len(train), (50,), generator=generator)]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return errors


torch.manual_seed(0)
trained = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
)
print(f"upright: {learn(trained, upright, 0.003, 300, test)[-1]:.1f} % errors")

# %%
# Four ways
# ---------
#
# The last layer learns in all of them.

whitened = wc.dictionaries.PCA(whiten=True)
rules = {
    "U fixed, 8 columns": wc.Rule(whitened, n_atoms=4, columns=8),
    "both factors learned": wc.Rule(wc.dictionaries.LowRank(), n_atoms=2),
}


def make(way):
    """The network that learns in this way."""
    if way in rules:
        plan = {"1": rules[way], "3": rules[way]}
        return wc.adapt(trained, plan, inputs=turned[train], heads=["5"])
    model = copy.deepcopy(trained).requires_grad_(way == "all weights")
    model[5].requires_grad_(True)
    return model


# %%
# What they reach
# ---------------
#
# Each at that rate of three which is best on images set aside; the test images are read once.

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for way in (*rules, "all weights", "last layer alone"):
    last = {rate: learn(make(way), turned, rate, 200, aside)[-1] for rate in (0.003, 0.01, 0.03)}
    rate = min(last, key=last.get)
    model = make(way)
    n_learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    errors = learn(model, turned, rate, 200, test)
    print(f"{way}: {n_learned:,} learned at rate {rate}, {errors[-1]:.1f} % errors")
    axis.plot(range(0, 201, 10), errors, label=f"{way}, {n_learned:,}")
axis.set(xlabel="steps", ylabel="test error, %", yscale="log")
axis.legend(title="learned weights")
plt.show()

# %%
# One seed, and a small network. V can be kept, merged into dense weights, or written as a LoRA
# adapter for PEFT: :doc:`/adapt` has all of it, and figures from real networks.
