"""share: never more learned weights than were asked for, over the layers that can be adapted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.layers import adapted_layers
from weightcast.plan.share import share_learned


class Network(nn.Module):
    """Runs its layers in another order than it holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.two = nn.Linear(48, 30), nn.Linear(64, 48)
        self.one, self.tiny = nn.Linear(40, 64), nn.Linear(40, 2)
        self.table = nn.Embedding(100, 40)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        return self.head(self.two(self.one(x)).relu() + self.tiny(x).sum())


TOKENS = torch.arange(100).view(5, 20)


@pytest.mark.parametrize("learned", [48, 100, 112, 159, 1000, 4000])
def test_no_more_is_learned_and_what_is_left_over_is_less_than_one_atom(learned):
    torch.manual_seed(0)
    model = Network()
    plan = wc.suggest(model, learned=learned, purpose="adapt", inputs=TOKENS)
    adapted = wc.adapt(model, plan, inputs=TOKENS)
    found = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert found <= learned
    full = all(layer.delta.atoms.n_atoms == layer.delta.n_visible for layer in
               adapted_layers(adapted).values())  # fmt: skip
    assert full or learned - found < 48
    assert set(adapted_layers(adapted)) <= {"one", "two"}


def test_layers_that_run_last_come_first():
    plan = share_learned(Network(), 48 * 2 + 64, [TOKENS])
    assert {name: rule and rule.n_atoms for name, rule in plan.rules.items()} == {
        "one": 1, "two": 2, "*": None,
    }  # fmt: skip


def test_columns_are_as_many_as_inputs_and_units_allow():
    for n_atoms, columns, expected in ((1, None, [16, 16]), (1, 99, [40, 48]), (4, None, [10, 16])):
        plan = share_learned(Network(), n_atoms * 112, [TOKENS], columns)
        assert [rule.columns for rule in plan.rules.values() if rule] == expected
    whole = share_learned(Network(), 10**6, [TOKENS])
    assert [rule.n_atoms for rule in whole.rules.values() if rule] == [40, 64]


def test_quantised_frozen_and_predicted_layers_are_shared_with_too():
    model = Network().requires_grad_(False)
    small = wc.convert(Network(), {"one": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    for network in (model, small):
        assert list(share_learned(network, 1000, [TOKENS]).rules) == ["one", "two", "*"]


def test_without_inputs_rules_are_relative_where_there_is_a_w0():
    small = wc.convert(Network(), {"one": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    plan = wc.suggest(small, learned=1000, purpose="adapt")
    found = {name: rule for name, rule in plan.rules.items() if rule}
    assert {name: rule.relative for name, rule in found.items()} == {
        "head": True, "two": True, "one": False,
    }  # fmt: skip
    assert {name: rule.columns for name, rule in found.items()} == {
        "head": 1, "two": 1, "one": 5,
    }  # fmt: skip
    adapted = wc.adapt(small, plan)
    assert torch.equal(adapted(TOKENS), small(TOKENS))


BY_HAND = wc.Rule(wc.dictionaries.DCT(), n_atoms=2, relative=True)


@pytest.mark.parametrize("by_hand", [False, True])
def test_cosines_of_shares_see_all_inputs_of_a_convolution(by_hand, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 64, 3, groups=2), nn.Conv2d(64, 32, 1), nn.ConvTranspose2d(32, 16, 3),
        nn.Flatten(), nn.LazyLinear(5),
    ).eval()  # fmt: skip
    x = torch.randn(2, 8, 6, 6)
    model(x)
    plan: Any = dict.fromkeys("012", BY_HAND)
    if not by_hand:
        plan = wc.suggest(model, learned=300, purpose="adapt")
    adapted: Any = wc.adapt(model, plan)
    assert torch.equal(adapted(x), model(x))
    for layer in adapted[:3]:
        assert bool((layer.delta.atoms.dictionary(0).abs() > 1e-9).float().mean() > 0.9)
        torch.nn.init.normal_(layer.delta.V)
    wc.save(adapted, tmp_path / "adapted")
    assert torch.equal(wc.load(tmp_path / "adapted", model)(x), adapted(x))


def test_directions_of_a_convolutions_inputs_are_in_one_column_unless_told_otherwise():
    model = nn.Sequential(nn.Conv2d(64, 32, 1), nn.Flatten(), nn.Linear(512, 64), nn.Linear(64, 5))
    x = torch.randn(8, 64, 4, 4)

    def columns(**options):
        plan = wc.suggest(model, learned=300, purpose="adapt", **options)
        return [rule.columns for rule in plan.rules.values() if rule]

    assert columns(inputs=x) == [1, 16]
    assert columns(inputs=x, columns=4) == [4, 4]
    small = wc.convert(model, {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    plan = wc.suggest(small, learned=300, purpose="adapt", inputs=x)
    assert [rule.columns for rule in plan.rules.values() if rule] == [1, 16]


def test_what_cannot_be_shared_is_an_error():
    model = Network()
    with pytest.raises(ValueError, match=r"learned is 47, and one atom .* 'two', learns 48"):
        wc.suggest(model, learned=47, purpose="adapt", inputs=TOKENS)
    with pytest.raises(ValueError, match="purpose is 'adapt' and learned None: to adapt,"):
        wc.suggest(model, purpose="adapt")
    with pytest.raises(ValueError, match="purpose is 'predict' and learned 100"):
        wc.suggest(model, learned=100)
    with pytest.raises(ValueError, match="give no fraction or budget beside it"):
        wc.suggest(model, 0.5, learned=100, purpose="adapt")
    with pytest.raises(ValueError, match="no layer to adapt: of 1 that multiply inputs"):
        wc.suggest(nn.Sequential(nn.Linear(50, 50)), learned=100, purpose="adapt")


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor, np.array])
def test_a_whole_number_of_another_library_is_one(kind):
    model = Network()
    plan = wc.suggest(model, learned=kind(500), columns=kind(4), seed=kind(1), purpose="adapt")
    assert plan == wc.suggest(model, learned=500, columns=4, seed=1, purpose="adapt")
    assert wc.suggest(model, budget=kind(9000)) == wc.suggest(model, budget=9000)
    with pytest.raises(ValueError, match="learned is True, and one atom"):
        wc.suggest(model, learned=np.bool_(True), purpose="adapt")
