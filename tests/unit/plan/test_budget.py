"""A plan for a budget: what each layer is offered, and that what is counted is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.plan import budget

IMAGES = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(),
                         nn.Linear(40, 4))  # fmt: skip


@pytest.mark.parametrize("count", ["learned", "stored"])
@pytest.mark.parametrize("inputs", [None, IMAGES])
def test_a_budget_is_kept_by_what_it_counts(count, inputs):
    model = network()
    plan = wc.suggest(model, budget=0.3, count=count, inputs=inputs, columns=2, progress=False)
    total = wc.ledger(wc.convert(model, plan, inputs=inputs)).total
    spent = total.learned if count == "learned" else total.stored
    assert 0.8 * 0.3 * total.dense < spent <= 0.3 * total.dense


def test_pixels_are_offered_windows_and_hidden_layers_what_their_inputs_say():
    plan = wc.suggest(network(), budget=0.3, inputs=IMAGES, progress=False)
    pixels, hidden = plan.rules["1"], plan.rules["3"]
    assert isinstance(pixels.dictionary, d.LocalKernel)
    assert pixels.grid == wc.Grid((8, 8))
    assert isinstance(hidden.dictionary, d.Covariance)
    assert plan.rules["*"] is None


def test_a_layer_whose_inputs_vary_little_gets_little():
    scale = torch.cat([torch.ones(4), torch.full((60,), 1e-4)])
    flat = [torch.randn(80, 64, generator=torch.Generator().manual_seed(1)) * scale]
    plan = wc.suggest(network(), budget=0.4, inputs=flat, columns=1, progress=False)
    assert round(plan.rules["1"].fraction * 64) <= 16
    assert plan.rules["3"] is None or plan.rules["3"].fraction > plan.rules["1"].fraction


@pytest.mark.parametrize("budget", [0, -1, 1.0, 1.5, True, float("nan"), "0.5"])
def test_what_is_no_budget_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget is .*: give a share of all weights in \(0, 1\)"):
        wc.suggest(network(), budget=budget, progress=False)


def test_a_budget_below_what_stays_dense_or_above_everything_is_refused():
    with pytest.raises(ValueError, match=r"but \d+ stay dense .*: take a budget above \d+"):
        wc.suggest(network(), budget=10, progress=False)
    with pytest.raises(
        ValueError, match="leaves room for all weights: no layer needs to be predic"
    ):
        wc.suggest(network(), budget=1_000_000, progress=False)
    with pytest.raises(ValueError, match="count is 'bytes': take 'learned' or 'stored'"):
        wc.suggest(network(), budget=0.3, count="bytes", progress=False)  # pyright: ignore


def test_a_dictionary_that_loses_four_times_as_much_is_not_looked_at_to_the_end(monkeypatch):
    """Patches of noise: no smooth filter comes near the inputs that a unit has of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(8, 16, 31), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 10, 3))
    with torch.no_grad():
        model[0].weight *= torch.rand(model[0].weight.shape) > 0.9
    how = {"budget": 0.5, "count": "stored", "inputs": torch.randn(50, 8, 40), "progress": False}
    sizes = []
    looked = budget.loss_curve

    def counted(*arguments):
        curve = looked(*arguments)
        sizes.append((len(curve), arguments[2]))
        return curve

    monkeypatch.setattr(budget, "loss_curve", counted)
    plan = wc.suggest(model, **how)
    assert any(n < n_atoms for n, n_atoms in sizes)
    monkeypatch.setattr(budget, "HOPELESS", float("inf"))
    sizes.clear()
    assert wc.suggest(model, **how) == plan
    assert all(n == n_atoms for n, n_atoms in sizes)
