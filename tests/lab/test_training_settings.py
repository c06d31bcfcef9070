import inspect
from pathlib import Path

import pytest
import yaml

from weightcast.cli.yaml_files import read_yaml
from weightcast_lab.cli import config_options
from weightcast_lab.cli.config_options import parse_value
from weightcast_lab.settings import override
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

PLAN = {
    "version": 1,
    "rules": {
        "hidden1": {
            "dictionary": {
                "kind": "Kernel",
                "kernel": {"kind": "SquaredExponential", "length_scale": 2.0},
            },
            "fraction": 0.05,
            "columns": 20,
            "grid": {"shape": [28, 28]},
        },
        "*": None,
    },
}


def test_the_defaults_are_an_empty_file():
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_a_config_comes_back_from_yaml_as_it_was():
    config = TrainConfig(
        data="mnist",
        model=ModelSettings("mlp", "sigmoid", (30, 20)),
        plan=PLAN,
        training=TrainingSettings(epochs=3, optimiser="sgd", learning_rate_V=0.5),
        seed=7,
        n_validation=10,
    )
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_config(path):
    assert TrainConfig.from_dict(read_yaml(path)).to_dict()


def test_there_are_examples():
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modle": {}}, r"no field 'modle'; did you mean 'model'\?"),
        ({"model": {"activaton": "relu"}}, r"'model'.* no field 'activaton'; .*'activation'\?"),
        ({"training": {"epoch": 1}}, r"'training'.* no field 'epoch'; did you mean 'epochs'\?"),
        ({"plan": {"ruls": {}}}, r"plan: unknown field 'ruls'; did you mean 'rules'\?"),
        (
            {"plan": {"rules": {"a": {**PLAN["rules"]["hidden1"], "colums": 1}}}},
            r"rule 'a': Rule has no field 'colums'; did you mean 'columns'\?",
        ),
        (
            {"plan": {"rules": {"a": {"dictionary": {"kind": "Kernal"}, "fraction": 0.5}}}},
            r"rule 'a'.* no Dictionary 'Kernal'; did you mean 'Kernel'\?",
        ),
        ({"plan": {"rules": {"a": {"dictionary": {"kind": "DCT"}, "fraction": 1.5}}}}, "1.5"),
        ({"training": {"epochs": "ten"}}, "field 'epochs': expected int, got 'ten'"),
        ({"training": {"epochs": 0}}, "epochs is 0: it must be 1 or more"),
        ({"training": {"batch_size": -1}}, "batch_size is -1"),
        ({"training": {"learning_rate": 0}}, "learning_rate is 0.0: it must be above 0"),
        ({"training": {"learning_rate_V": -1.0}}, "learning_rate_V is -1.0"),
        ({"training": {"weight_decay": -1}}, "weight_decay is -1.0: it must be 0 or more"),
        ({"training": {"momentum": 1}}, r"momentum is 1.0: it must lie in \[0, 1\)"),
        ({"training": {"optimiser": "adam"}}, "'adam' is none of 'adamw', 'sgd'"),
        ({"training": {"test_weights": "best"}}, "'best' and n_validation is 0: .* set some aside"),
        ({"model": {"name": "resnet"}}, "'resnet' is none of 'mlp', 'convnet'"),
        ({"model": {"name": "convnet", "hidden": [5]}}, r"hidden is \[5\], but convnet"),
        ({"seed": -1}, "seed is -1"),
        ({"n_inputs": 0}, "n_inputs is 0"),
    ],
)
def test_what_is_no_config_is_refused_with_the_remedy(data, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(data, "run.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5e1", 5.0),
        ("0.05", 0.05),
        ("e3", "e3"),
        ("1e3x", "1e3x"),
        ("[1, 2]", [1, 2]),
        ("null", None),
        ("true", True),
    ],
)
def test_values_are_read_as_one_would_expect(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "no YAML"),
        ("- a", "holds a list: a config is a mapping"),
        ("!!python/object/apply:os.getcwd []", "no YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no config file .*run\.yaml"):
        read_yaml(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match="cannot read the config file"):
        read_yaml(tmp_path)


def test_an_override_follows_dotted_names_of_layers():
    data = {"plan": {"rules": {"blocks.0.linear": {"fraction": 0.1}, "blocks": None}}}
    override(data, "plan.rules.blocks.0.linear.fraction", 0.2)
    override(data, "training.epochs", 3)
    override(data, "seed", 5)
    assert data == {
        "plan": {"rules": {"blocks.0.linear": {"fraction": 0.2}, "blocks": None}},
        "training": {"epochs": 3},
        "seed": 5,
    }
    with pytest.raises(ValueError, match=r"cannot set 'seed\.x': 'seed' is 5, no mapping"):
        override(data, "seed.x", 1)


def test_options_are_described_whatever_the_indentation_of_docstrings(monkeypatch):
    """Python 3.13 takes it off, and earlier ones do not."""
    before = config_options._descriptions(TrainConfig)
    assert "data" in before
    monkeypatch.setattr(TrainConfig, "__doc__", inspect.getdoc(TrainConfig))
    assert config_options._descriptions(TrainConfig) == before
