from collections import Counter
from functools import cache

import pytest

from weightcast.dictionaries import LowRank
from weightcast.plan.plan import Plan
from weightcast_lab.studies.speech import trials
from weightcast_lab.studies.speech_trials import FRACTIONS, MAIN, OURS, curves
from weightcast_lab.sweeps.curves import paper_curves
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import mlp


@cache
def full():
    return trials("full", 1, "timit")


@pytest.mark.parametrize("preset", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("data", ["fsdd", "timit"])
def test_trials_differ_and_come_back_from_json(preset, data):
    if preset == "full":
        found, data = full(), "timit"
    else:
        found = trials(preset, 2, data)
        assert {trial.config.seed for trial in found} == {0, 1}
    assert len({(t.config.variant, t.config.seed) for t in found}) == len(found)
    some = found[:: max(1, len(found) // 20)]
    assert len({trial.key for trial in some}) == len(some)
    for trial in some:
        assert trial.kind == "speech"
        assert Trial.from_json(trial.to_json()) == trial
        assert trial.config.data == trial.config.corpus == data
        assert trial.config.hidden == (1024, 1024)


def test_the_cpu_preset_has_every_curve_at_five_fractions():
    configs = [trial.config for trial in trials("cpu", 1, "fsdd")]
    points = Counter(c.labels["curve"] for c in configs if c.labels.get("columns", 10) == 10)
    assert points == {"dense": 1} | dict.fromkeys(MAIN, 5)
    for curve in MAIN:
        shares = {c.labels["fraction"] for c in configs if c.labels["curve"] == curve}
        assert shares == set(FRACTIONS)
    several = {c.labels["columns"] for c in configs if c.labels["curve"] == "Emp-Emp"}
    assert several == {1, 5, 10, 20}
    assert len({c.variant for c in configs}) == len(configs)


def test_labels_say_what_the_plan_does():
    for config in (trial.config for trial in full()[::7]):
        labels = config.labels
        assert labels["pretrained"] == (config.pretraining is not None)
        assert labels["activation"] == config.activation
        if labels["curve"] == "dense":
            assert config.plan is None
            assert labels["fraction"] == 1
            continue
        rules = Plan.from_dict(config.plan).rules
        assert list(rules) == ["hidden1", "hidden2"]
        for rule, size in zip(rules.values(), (264, 1024), strict=True):
            if isinstance(rule.dictionary, LowRank):
                assert "columns" not in labels
                learned = rule.fraction * size * (size + 1024)
                assert learned == pytest.approx(labels["fraction"] * size * 1024, rel=0.5)
            else:
                assert rule.columns == labels["columns"]
                assert rule.fraction == labels["fraction"]


def test_the_plans_fit_the_network():
    model = mlp((1, 11, 24), 30, (1024, 1024), seed=0)
    for trial in trials("smoke", 1, "fsdd"):
        if trial.config.plan is not None:
            assert list(Plan.from_dict(trial.config.plan).resolve(model)) == ["hidden1", "hidden2"]


def test_ours_is_told_from_the_papers():
    assert set(curves()) - set(paper_curves()) == {OURS}


def test_no_seeds_and_other_data_are_refused():
    with pytest.raises(ValueError, match="seeds is 0: every point needs at least 1 run"):
        trials("cpu", 0, "fsdd")
    with pytest.raises(ValueError, match="data is 'mnist': the speech experiment reads 'fsdd'"):
        trials("cpu", 1, "mnist")
