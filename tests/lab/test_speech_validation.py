"""studies/speech_validation: the committed table's runs, and none of their test errors."""

import csv
from dataclasses import replace
from pathlib import Path

from tests.lab.here import sweep_here
from tests.lab.speech_corpora import write_digits
from weightcast_lab.data.speech import FeatureSettings
from weightcast_lab.studies import speech_validation as study

TABLE = Path("results/speech_validation.csv")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key(line):
    numbers = ("learning_rate", "epochs", "pretraining_epochs")
    return line["hidden1"], line["hidden2"], *(float(line[name]) for name in numbers)


def test_its_runs_are_those_of_the_committed_table():
    tried = [key(vars(choice)) for choice in study.choices()]
    assert len(tried) == len(set(tried))
    assert set(tried) == {key(line) for line in read(TABLE)}


def test_a_table_is_measured_on_validation_recordings(tmp_path, monkeypatch):
    features = FeatureSettings(bands=12, shift=20)
    small = replace(study.BASE, features=features, context=1, hidden=(24, 20), n_validation=1)
    make_config = study.make_config
    monkeypatch.setattr(study, "make_config", lambda choice: make_config(choice, small))
    command = f"--data {write_digits(tmp_path)} --output {tmp_path}/runs --table {tmp_path}/table"
    monkeypatch.setattr("sys.argv", ["study", *command.split(), "--only", "random orthonormal;"])
    monkeypatch.setattr(study, "sweep", sweep_here)
    study.main()
    lines = read(tmp_path / "table")
    assert list(lines[0]) == list(read(TABLE)[0])
    assert [key(line)[:3] for line in lines] == [
        ("random orthonormal", second, rate)
        for second, rate in (
            ("random orthonormal", 2e-3),
            ("next units of the layer below", 2e-3),
            ("covariance, leading eigenvectors", 2e-3),
            ("random orthonormal", 4e-3),
        )
    ]
    n_learned = 2 * 24 + 24 + 1 * 20 + 20 + 21 * 30
    assert [int(line["learned"]) for line in lines] == [n_learned] * 4
    assert all(0 < float(line["frame_error_percent"]) <= 100 for line in lines)
