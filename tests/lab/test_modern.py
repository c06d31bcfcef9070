"""The trials of the modern networks: what is predicted, from what, and beside how many weights."""

from collections import Counter

import pytest
import torch

import weightcast as wc
from weightcast.layers import predicted_layers
from weightcast.layers.counts import ledger
from weightcast_lab.studies import modern
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import gpt, resnet20, vit

NETWORKS = ("resnet20", "vit", "gpt")


def make(name, widths=None):
    if name == "resnet20":
        return resnet20(widths=widths or (8, 16, 32), seed=0)
    if name == "vit":
        return vit(width=(widths or (64,))[0], depth=2, seed=0)
    return gpt(modern.N_CHARACTERS, 16, (widths or (64,))[0], depth=2, seed=0)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_trial_is_there_once_and_survives_its_json(network, preset):
    trials = modern.trials(network, preset, 2, "some data")
    places = Counter((*sorted(t.config.labels.items()), t.config.seed) for t in trials)
    assert set(places.values()) == {1}
    name = f"modern-{network}" + "-full" * (preset == "full")  # its rows are of other networks
    assert {t.config.experiment for t in trials} == {name}
    for trial in trials[:4]:
        assert Trial.from_json(trial.to_json()).key == trial.key
    steps = {(t.config.training, t.config.n_train) for t in trials}
    assert len(steps) == 1, "all networks are trained alike"


@pytest.mark.parametrize("curve", [*modern.COVERED, modern.SINGLE])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_plan_predicts_the_large_layers_and_no_others(network, curve, fraction):
    model = make(network)
    inputs = torch.randint(5, (8, 16)) if network == "gpt" else torch.randn(8, 3, 32, 32)
    plan = modern.make_plan(network, curve, fraction, 8 if network == "resnet20" else 64)
    predicted = wc.convert(model, plan, inputs=inputs)
    names = set(predicted_layers(predicted))
    expected = {"resnet20": 18, "vit": 1 + 8, "gpt": 8}
    assert len(names) == expected[network]
    assert not names & {"classifier", "conv", "characters"}
    assert ledger(predicted).total.learned == modern.count_learned(model, network, fraction)
    for layer in predicted_layers(predicted).values():
        atoms = layer.atoms
        share = min(1, atoms.columns * atoms.n_atoms / atoms.n_visible)
        # A whole number of columns comes near, from below.
        covered = modern.COVERED.get(curve, 1.0)
        assert share <= covered + 0.06
        assert share > 0.7 * covered


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_narrow_networks_learn_no_fewer_weights(network, fraction):
    setting = modern._SETTINGS["cpu"][network]
    config = modern.make_config("narrow", fraction, setting, 0, "data")
    context = setting.context
    widths = config.model.hidden
    full = modern._make_empty(setting.model, setting.model.hidden, context)
    wanted = modern.count_learned(full, network, fraction)
    narrow = sum(p.numel() for p in modern._make_empty(config.model, widths, context).parameters())
    assert wanted <= narrow < 1.5 * wanted
    assert widths < setting.model.hidden


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds is 0"):
        modern.trials("gpt", "smoke", 0, "descriptions")
