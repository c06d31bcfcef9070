"""studies/modern_directions: another network's directions, and nothing else of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weightcast.layers import predicted_layers
from weightcast_lab.studies import modern_directions
from weightcast_lab.studies.modern import cpu_setting
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import ModelSettings, TrainingSettings
from weightcast_lab.training.build import build_model, dense_model, read_data

TEXT = "the quick brown fox jumps over the lazy dog while seven wizards box. " * 40
TINY = replace(
    cpu_setting("gpt"),
    model=ModelSettings("gpt", hidden=(16,), depth=1),
    training=TrainingSettings(1, 8, learning_rate=1e-2),
    n_train=60,
    n_validation=10,
    n_inputs=20,
    context=16,
)


@pytest.fixture
def text(monkeypatch, tmp_path):
    monkeypatch.setattr(modern_directions, "cpu_setting", lambda network: TINY)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_only_the_atoms_are_those_of_the_trained_network(text):
    config = modern_directions.make_run("gpt", "text", 0.25, 1.0, 0)
    data = read_data(config, str(text))
    source = modern_directions.trained(config, data, 1.0)
    before = {key: value.clone() for key, value in source.state_dict().items()}
    model = modern_directions.with_directions_of(source, config, data)
    dense, informed = dense_model(config, data.shape, data.n_classes), build_model(config, data)
    assert all(torch.equal(before[key], value) for key, value in source.state_dict().items())
    assert not torch.equal(before["classifier.weight"], dense.state_dict()["classifier.weight"])
    for key, value in dense.state_dict().items():
        if key in model.state_dict():
            assert torch.equal(model.state_dict()[key], value), key
    assert model.training
    layers, others = predicted_layers(model), predicted_layers(informed)
    assert layers.keys() == others.keys()
    assert len(layers) == 4
    for name, layer in layers.items():
        assert layer.V.shape == others[name].V.shape
        assert not torch.allclose(layer.atoms.base.atoms, others[name].atoms.base.atoms)


def test_rows_are_made_once(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv",
        f"directions gpt --data text={text} --fractions 0.25 0.5 --after 0.5 --seeds 0 1 "
        f"--rows {tmp_path}/rows".split(),
    )
    modern_directions.main()
    out = capsys.readouterr().out
    rows = read_rows(tmp_path / "rows")
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (f"informed after 50%, {share} %", seed) for seed in (0, 1) for share in (25, 50)
    ]
    mean = sum(row["metrics"]["test_loss"] for row in rows[::2]) / 2
    assert out.splitlines()[0].split("%")[2].split()[0] == f"{mean:.3f}"
    monkeypatch.setattr(modern_directions, "run", None)
    modern_directions.main()  # again: nothing is missing
    assert capsys.readouterr().out == out
    assert read_rows(tmp_path / "rows") == rows
