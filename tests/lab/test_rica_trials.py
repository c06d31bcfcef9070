"""Reconstruction ICA's trials: what they cover, what a row says, the same twice."""

import json

import pytest
import torch

from weightcast.dictionaries import Covariance, Kernel
from weightcast.layers.rule import Rule
from weightcast_lab.studies import rica
from weightcast_lab.studies.rica import RicaConfig, run, trials
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import Images
from weightcast_lab.training.ica import RicaSettings

SMALL = RicaConfig(
    data="noise",
    n_features=8,
    patch_size=4,
    n_patches=200,
    n_train=40,
    n_test=20,
    settings=RicaSettings(epochs=1),
    labels={"curve": "dense", "fraction": 1.0},
)


@pytest.fixture
def noise(monkeypatch):
    """Images of noise, which take no time to read."""
    x = torch.rand(60, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 3
    images = Images("noise", (x, y), None, (x[:30], y[:30]), 3)
    read = []
    monkeypatch.setattr(rica, "load_images", lambda source: read.append(source) or images)
    return read


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestTrials:
    @pytest.mark.parametrize("preset", ["smoke", "cpu", "full"])
    def test_are_all_different_and_survive_json(self, preset):
        found = trials(preset, 2, "cifar10")
        assert len({trial.key for trial in found}) == len(found)
        for trial in found[:: len(found) // 20 + 1]:
            again = Trial.from_json(trial.to_json())
            assert again.config == trial.config
            assert again.key == trial.key
        assert {trial.config.data for trial in found} == {"cifar10"}
        assert {trial.config.seed for trial in found} == {0, 1}

    def test_cover_the_curves_at_four_fractions(self):
        curves = {}
        for trial in trials("cpu", 1, "cifar10"):
            labels = trial.config.labels
            key = (labels["curve"], labels.get("columns"))
            curves.setdefault(key, []).append(labels["fraction"])
        fractions = [0.05, 0.1, 0.25, 0.5]
        assert curves.pop(("dense", None)) == [1.0]
        assert curves.pop(("untrained", None)) == [1.0]
        assert {name for name, columns in curves if columns == 1} == {
            "SE",
            "Emp",
            "RandFixU",
            "PCA",
            "DCT",
        }
        assert all(found == fractions for found in curves.values())
        assert ("narrow", None) in curves

    def test_narrow_learns_as_many_weights_as_the_predicted(self, noise):
        learned = {}
        for trial in trials("smoke", 1, "noise"):
            row = run(trial.config, Place())
            learned[row["labels"]["curve"]] = row["counts"]["learned"]
        assert learned["dense"] == 32 * 108
        assert learned["narrow"] == learned["SE"] == learned["RandFixU"] == 8 * 108

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("cpu", 0, "x"), "seeds is 0: every point needs at least 1 run"),
            (("big", 1, "x"), "there is no preset 'big'; known: cpu, full, smoke"),
        ],
    )
    def test_refuse_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            trials(*arguments)


class TestRun:
    @pytest.mark.parametrize(
        "rule",
        [None, Rule(Kernel(), 0.25, columns=2), Rule(Covariance(), 0.25)],
        ids=["dense", "kernel", "covariance"],
    )
    def test_the_same_config_gives_the_same_row(self, noise, rule, unmoved_randomness):
        config = RicaConfig(**{**SMALL.__dict__, "rule": rule})
        rows = [run(config, Place(data="here")) for _ in range(2)]
        for row in rows:
            assert row["metrics"].pop("train_seconds") > 0
        assert rows[0] == rows[1]
        assert noise == ["here", "here"]
        json.dumps(rows[0], allow_nan=False)

    def test_a_row_says_what_was_done(self, noise):
        row = run(SMALL, Place())
        assert noise == ["noise"]
        assert row["experiment"] == "rica"
        assert row["labels"] == {"curve": "dense", "fraction": 1.0}
        assert RicaConfig.from_dict(row["config"]) == SMALL
        assert row["counts"] == {
            "dense": 8 * 48,
            "learned": 8 * 48,
            "train_patches": 200,
            "train_images": 40,
            "test_images": 20,
        }
        assert 0 <= row["metrics"]["test_error"] <= 100
        assert row["metrics"]["r2"] < 1

    def test_another_seed_gives_another_row(self, noise):
        other = RicaConfig(**{**SMALL.__dict__, "seed": 1})
        objectives = {run(config, Place())["metrics"]["objective"] for config in (SMALL, other)}
        assert len(objectives) == 2

    def test_a_gpu_that_is_not_there_is_an_error(self, noise, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match="accelerator is 'gpu', but torch finds none"):
            run(SMALL, Place(accelerator="gpu"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_features": 0}, "n_features is 0: it must be 1 or more"),
            ({"stride": 0}, "stride is 0"),
            ({"n_train": 9}, "n_train is 9: take 10 or more, or null for all"),
            ({"n_test": 0}, "n_test is 0: take 1 or more"),
            ({"rule": Rule(Kernel(), 0.5, grid=(4, 4))}, "leave it out"),
        ],
    )
    def test_bad_configs_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            RicaConfig(**changes)

    def test_an_unknown_field_names_its_neighbour(self):
        with pytest.raises(ValueError, match="no field 'patchsize'; did you mean 'patch_size'"):
            RicaConfig.from_dict({"patchsize": 8})
