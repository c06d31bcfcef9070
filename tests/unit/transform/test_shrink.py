"""shrink: the smallest network that is good enough, found with few evaluations and one look."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc
from weightcast.transform.shrink import LARGEST, trials_table


@pytest.fixture(scope="module")
def digits():
    """A trained network, its calibration inputs and its error in % on other images."""
    data = load_digits()
    images = torch.from_numpy(data.data / 16).float()
    labels = torch.from_numpy(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 10)
    )
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[:1000]), labels[:1000]).backward()
        optimiser.step()

    def error(network):
        with torch.no_grad():
            right = network(images[1000:]).argmax(dim=1) == labels[1000:]
        return 100 * (1 - float(right.float().mean()))

    return model.eval(), list(images[:1000].split(250)), error


def test_the_smallest_that_is_good_enough_is_returned(digits):
    model, batches, error = digits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trials: list[wc.ShrinkTrial] = []
    small = wc.shrink(
        model, batches, error, 1.0, evaluations=6, callback=trials.append, progress=False
    )
    dense, *tried = trials
    assert (dense.budget, dense.share, dense.holds) == (1.0, 1.0, True)
    assert dense.metric == error(model)
    assert 2 <= len(tried) <= 6
    good = [trial for trial in tried if trial.holds]
    assert all(trial.holds == (trial.metric <= dense.metric + 1.0) for trial in tried)
    best = min(good, key=lambda trial: trial.stored)
    assert wc.ledger(small).total.stored == best.stored < 0.6 * dense.stored
    assert error(small) == best.metric
    # Bisection: every network that was too small has a smaller budget than all that were not.
    assert max((t.budget for t in tried if not t.holds), default=0) < min(t.budget for t in good)
    table = trials_table(trials).splitlines()
    assert sum(line.startswith("*") for line in table) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_call_finds_the_same(digits):
    model, batches, error = digits
    found = [wc.shrink(model, batches, error, 2.0, evaluations=3, progress=False) for _ in "12"]
    states = [network.state_dict() for network in found]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_model_runs_no_more_often_for_more_evaluations(digits, monkeypatch):
    model, batches, _ = digits
    runs, counting = [], True
    forward = nn.Linear.forward

    def counted(self, input):
        if counting:
            runs.append(id(self))
        return forward(self, input)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    counts = []
    for evaluations in (2, 6):
        runs.clear()
        wc.shrink(model, batches, lambda _: 0.0, evaluations=evaluations, progress=False)
        counts.append(len(runs))
    assert counts[0] == counts[1] > 0


def test_accuracy_is_better_when_higher(digits):
    model, batches, error = digits
    small = wc.shrink(
        model, batches, lambda m: 100 - error(m), 1.0,
        higher_is_better=True, evaluations=3, progress=False,
    )  # fmt: skip
    assert error(small) <= error(model) + 1.0


def test_where_not_even_the_largest_is_good_enough_both_metrics_are_named(digits):
    model, batches, _ = digits
    tried = []

    def worse(network):
        return 0.25 if network is model else 0.75

    with pytest.raises(ValueError, match=r"dense one has 0\.25, the one of .* 0\.75.*tolerance is"):
        wc.shrink(model, batches, worse, evaluations=3, callback=tried.append, progress=False)
    assert tried[-1].budget == LARGEST
    assert len(tried) == 4


def test_a_metric_that_is_no_number_is_never_good_enough(digits):
    model, batches, _ = digits
    with pytest.raises(ValueError, match="no network is good enough"):
        wc.shrink(
            model, batches, lambda m: 0.0 if m is model else math.nan, evaluations=2, progress=False
        )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tolerance": -1}, "tolerance is -1 and evaluations 8"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"evaluations": 1}, "and evaluations 1: give"),
        ({"evaluate": lambda _: math.inf}, "evaluate gives inf for the dense network"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(digits, how, message):
    model, batches, error = digits
    with pytest.raises(ValueError, match=message):
        wc.shrink(model, batches, **{"evaluate": error, "progress": False} | how)
