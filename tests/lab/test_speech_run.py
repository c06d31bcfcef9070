"""The speech experiment end to end, on tiny corpora of tones in both layouts."""

import json
from dataclasses import replace

import pytest

from tests.lab.speech_corpora import write_digits, write_timit
from weightcast.dictionaries import Covariance
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.data.speech import FeatureSettings
from weightcast_lab.studies.speech import SpeechConfig, run
from weightcast_lab.sweeps.rows import append_row, read_rows
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.sweeps.trial import run as run_trial
from weightcast_lab.training import PretrainingSettings, TrainingSettings

DIGITS = SpeechConfig(
    features=FeatureSettings(bands=12, shift=20),
    context=1,
    hidden=(24, 16),
    training=TrainingSettings(epochs=8, batch_size=20, learning_rate=2e-2),
    labels={"curve": "dense", "fraction": 1.0},
)
TIMIT = replace(DIGITS, data="timit", corpus="timit", test_set="part", n_validation=1, change=None)
PLAN = Plan({"hidden1": Rule(Covariance(), 0.5, 2), "hidden2": Rule(Covariance(), 0.5, 2)})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Place(data=str(write_digits(tmp_path_factory.mktemp("digits"))), accelerator="cpu")


@pytest.fixture(scope="module")
def timit(tmp_path_factory):
    folder = write_timit(tmp_path_factory.mktemp("timit"))
    return Place(data=str(folder), accelerator="cpu")


def timeless(row):
    return row | {"metrics": {k: v for k, v in row["metrics"].items() if k != "train_seconds"}}


def test_digits_are_recognised_and_the_row_says_how(digits, tmp_path, unmoved_randomness):
    row = run(DIGITS, digits)
    assert row["dataset"] == "FSDD, a stand-in for TIMIT"
    assert row["experiment"] == "speech"
    assert row["labels"] == DIGITS.labels
    assert SpeechConfig.from_dict(row["config"]) == DIGITS
    assert str(digits.data) not in json.dumps(row)
    counts, metrics = row["counts"], row["metrics"]
    assert counts["train_recordings"] == 40
    assert counts["test_recordings"] == 100
    assert counts["learned"] == counts["dense"] == 36 * 24 + 24 + 24 * 16 + 16 + 16 * 30 + 30
    assert metrics["test_error"] == metrics["frame_error"] < 30  # chance is 97
    assert metrics["digit_error"] < 10  # chance is 90
    assert metrics["validation_error"] is None
    append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == [row]


def test_the_same_config_gives_the_same_row_and_another_seed_another(digits):
    config = replace(DIGITS, plan=PLAN.to_dict(), variant="Emp-Emp")
    trial = Trial("speech", replace(config, training=TrainingSettings(epochs=1, batch_size=50)))
    first = run_trial(trial, digits)
    assert first["variant"] == "Emp-Emp"
    assert timeless(run_trial(Trial.from_json(trial.to_json()), digits)) == timeless(first)
    other = run_trial(replace(trial, config=replace(trial.config, seed=1)), digits)
    assert other["metrics"]["train_loss"] != first["metrics"]["train_loss"]
    assert first["counts"]["learned"] == 18 * 24 + 24 + 12 * 16 + 16 + 16 * 30 + 30


def test_pre_training_and_validation_recordings_are_taken(digits):
    config = replace(
        DIGITS,
        plan=PLAN.to_dict(),
        pretraining=PretrainingSettings(epochs=1),
        training=TrainingSettings(epochs=1, batch_size=50),
        n_validation=1,
        max_recordings=15,
    )
    row = run(config, digits)
    plain = run(replace(config, pretraining=None), digits)
    assert row["metrics"]["train_loss"] != plain["metrics"]["train_loss"]
    assert row["counts"]["train_recordings"] == 15
    assert row["metrics"]["validation_error"] > 0
    assert row["metrics"]["validation_digit_error"] > 0


def test_phones_are_recognised_with_the_change_chosen_on_validation_speakers(timit):
    row = run(TIMIT, timit)
    assert row["dataset"] == "a part of TIMIT"
    metrics = row["metrics"]
    assert metrics["test_error"] == metrics["frame_error"] < 35
    assert metrics["frame_error_39"] <= metrics["frame_error"] + 5
    assert metrics["phone_error"] < 25
    given = run(replace(TIMIT, change=metrics["change"]), timit)
    assert given["metrics"]["phone_error"] == metrics["phone_error"]
    never = run(replace(TIMIT, change=-1e6), timit)
    assert never["metrics"]["phone_error"] > 50  # one phone for the whole sentence


def test_a_place_without_data_names_what_to_give():
    with pytest.raises(ValueError, match="give with --data the folder that holds recordings/"):
        run(DIGITS, Place())
    with pytest.raises(ValueError, match="give with --data the folder of LDC93S1"):
        run(TIMIT, Place())
