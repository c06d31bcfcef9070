import json

import pytest

from weightcast.dictionaries import Covariance
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.data.speech import FeatureSettings
from weightcast_lab.studies.speech_config import SpeechConfig
from weightcast_lab.training import PretrainingSettings, TrainingSettings

PLAN = Plan({"hidden1": Rule(Covariance(), 0.05, 5)}).to_dict()


def test_a_config_comes_back_from_json_as_it_was():
    config = SpeechConfig(
        variant="Emp-Emp",
        data="timit",
        corpus="timit",
        test_set="full",
        features=FeatureSettings(bands=40, shift=12.5),
        hidden=(30, 20, 10),
        activation="sigmoid",
        plan=PLAN,
        training=TrainingSettings(epochs=3),
        pretraining=PretrainingSettings(epochs=2),
        seed=7,
        n_validation=10,
        change=-2.0,
        labels={"curve": "Emp-Emp", "fraction": 0.05},
    )
    data = json.loads(json.dumps(config.to_dict()))
    assert SpeechConfig.from_dict(data) == config
    assert SpeechConfig.from_dict({}) == SpeechConfig()
    assert SpeechConfig().hidden == (1024, 1024)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"context": -1}, "context is -1: it must be 0 or more"),
        ({"n_inputs": 0}, "n_inputs is 0: it must be 1 or more"),
        ({"max_recordings": 0}, "max_recordings is 0"),
        ({"n_validation": -1}, "n_validation is -1"),
        ({"training": {"test_weights": "best"}}, "test_weights is 'best'"),
        ({"corpus": "timit"}, "n_validation is 0: the decoder's change .* give change"),
        ({"corpus": "wsj"}, "'wsj' is none of 'fsdd', 'timit'"),
        ({"features": {"band": 3}}, "did you mean 'bands'"),
        ({"hiden": [3]}, "did you mean 'hidden'"),
        ({"plan": {"rules": {"hidden1": {"fraction": 2.0}}}}, "needs 'dictionary'"),
    ],
)
def test_a_bad_value_is_refused_before_any_data_is_read(fields, message):
    with pytest.raises(ValueError, match=message):
        SpeechConfig.from_dict(fields)
