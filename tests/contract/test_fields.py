"""Every simple field of every configuration: NumPy's and others' values are Python's own once it is
made, so that what is saved can be loaded; what fits no field is refused when it is made."""

from __future__ import annotations

import dataclasses
import enum
import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels as sk
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.dictionaries.packing import BaseSpec
from weightcast.serialization import Plain, decode, encode
from weightcast.storage.few_bits import FewBits
from weightcast.transform.compress import Fitting
from weightcast.transform.distil.lessons import DistilSettings
from weightcast.transform.pretrain.greedy import PretrainSettings
from weightcast_lab.settings import (
    ModelSettings,
    PretrainingSettings,
    TrainConfig,
    TrainingSettings,
)

CONFIGURATIONS = [
    *(k.SquaredExponential(2.0), k.Exponential(2.0), k.Matern(2.5, 2.0), d.Kernel(ridge=0.5)),
    *(d.Covariance(ridge=0.5), d.SquaredCovariance(), d.ChannelCovariance(), d.LocalKernel()),
    *(d.DCT(), d.Fourier(), d.Wavelet("haar", level=1), d.SparseAtoms(), d.SingularVectors()),
    *(d.PCA(), d.KMeans(n_features=4), d.Autoencoder(n_features=4), d.RandomGaussian()),
    *(d.RandomConnections(), d.LowRank(), wc.Grid((4, 4), 2)),
    *(wc.Rule(d.DCT(), 0.5, columns=2, grid=(4, 4)), FewBits(8, 64, (2, 3), "float32")),
    *(BaseSpec("dense", ((2, 3),)), Fitting(), PretrainSettings(1, 1, 0.5, "squared", 0, 2)),
    *(DistilSettings(1, 0.5, True, ("V",), 0), ModelSettings(hidden=(4,)), PretrainingSettings()),
    *(TrainConfig(n_train=4), TrainingSettings(learning_rate_V=0.5)),
]


class _Whole(enum.IntEnum):
    TWO = 2


def _word(value: str) -> str:
    return str.__new__(type("Word", (str,), {}), value)


OTHERS = {
    bool: [np.bool_, np.array, torch.tensor],
    int: [np.int64, np.int32, np.array, torch.tensor, lambda n: enum.IntEnum("N", {"A": n}).A],
    float: [np.float32, np.float64, np.longdouble, np.array, torch.tensor, Fraction, Decimal],
    str: [np.str_, _word, np.array, lambda s: enum.Enum("W", {"A": s}, type=str).A],
    tuple: [list, np.array, iter],
}

BROTHERS = [
    pytest.param(one, field.name, other, id=f"{type(one).__name__}-{field.name}-{i}")
    for one in CONFIGURATIONS
    for field in dataclasses.fields(one)
    for i, other in enumerate(OTHERS.get(type(getattr(one, field.name)), []))
]


def test_every_configuration_is_tried():
    def below(cls):
        return {cls}.union(*map(below, cls.__subclasses__()))

    tried = {type(one) for one in CONFIGURATIONS}
    others = {"ScikitLearnKernel", "FromEstimator", "StoredAtoms", "Fingerprint"}  # see below
    written_alone = {
        "Manifest",
        "LayerManifest",
        "LayerRecord",
        "Origin",
    }  # by ``save``, of its own values
    known = {
        c for c in below(Plain) if c.__module__.startswith("weightcast.") and c.__name__[0] != "_"
    }
    left = {c.__name__ for c in known if dataclasses.is_dataclass(c)} - {c.__name__ for c in tried}
    assert left - others - written_alone <= {"KernelRidge", "Dictionary"}
    assert len(BROTHERS) > 250


@pytest.mark.parametrize(("one", "field", "other"), BROTHERS)
def test_a_field_of_another_type_becomes_pythons_own(one, field, other):
    value = getattr(one, field)
    changed = dataclasses.replace(one, **{field: other(value)})
    found = getattr(changed, field)
    assert type(found) is type(value)
    assert found == (pytest.approx(value, rel=1e-6) if type(value) is float else value)
    assert decode(type(one), json.loads(json.dumps(encode(changed)))) == changed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: d.KMeans(n_features=2.5), "n_features is 2.5: it must be a whole number"),
        (lambda: d.Wavelet(level="3"), "level is '3': it must be a whole number"),
        (lambda: d.Wavelet(wavelet=3), "wavelet is 3: it must be text"),
        (lambda: d.PCA(whiten="no"), "whiten is 'no': it must be True or False"),
        (lambda: k.Exponential("2"), "length_scale is '2': it must be a number"),
        (lambda: k.Exponential(10**400), "length_scale is 1000.*: it must be a number"),
        (
            lambda: k.Exponential(np.array([1.0, 2.0])),
            "length_scale is array.*: it must be a number",
        ),
        (lambda: k.Exponential(2 + 1j), "length_scale is .*: it must be a number"),
        (lambda: d.LocalKernel(power=float("inf")), "power is inf"),
        (lambda: d.Autoencoder(learning_rate=float("inf")), "learning_rate=inf"),
        (lambda: wc.Grid((4.0, 4)), "shape is .*: it must be a whole number"),
        (lambda: wc.Grid("44"), "shape is '44': it must be a sequence"),
        (lambda: wc.Rule(d.DCT(), 0.5, columns=True), "columns is True: it must be a whole number"),
        (lambda: wc.Rule(d.DCT(), 0.5, columns=[2]), r"columns is \[2\]"),
    ],
)
def test_what_no_file_could_give_back_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "length_scale",
    [np.float32(2), np.array(2.0), torch.tensor(2.0), Fraction(2), 2],
    ids=lambda value: type(value).__name__,
)
def test_such_a_model_is_loaded_again(length_scale, tmp_path):
    rule = wc.Rule(d.Kernel(k.SquaredExponential(length_scale)), 0.25, grid=np.array([4, 4]))
    model = wc.convert(nn.Sequential(nn.Linear(16, 8)), {"0": rule})
    wc.save(model, tmp_path / "model")
    again = wc.load(tmp_path / "model", nn.Sequential(nn.Linear(16, 8)))
    x = torch.randn(3, 16)
    assert torch.equal(again(x), model(x))
    assert again[0].rule == rule


@dataclasses.dataclass(frozen=True)
class _OwnInit(d.DCT):
    words: str = ""

    def __init__(self, words: str) -> None:
        super().__init__()
        object.__setattr__(self, "words", words)


class _NoDataclass(k.CoordinateKernel):
    """A kernel of someone's own, without fields."""

    def __call__(self, a, b):
        return k.Exponential(2.0)(a, b)


class _OwnRBF(sk.RBF):
    """Scikit-learn's kernel under another name, which files do not know."""


@pytest.mark.parametrize(
    "dictionary",
    [
        _OwnInit("x"),
        d.Kernel(_NoDataclass()),
        d.Kernel(_OwnRBF(2.0)),
        d.Kernel(sk.RBF(np.float32(2))),
    ],
    ids=["own __init__", "no dataclass", "own kernel of scikit-learn", "scikit-learn of NumPy"],
)
@pytest.mark.filterwarnings("ignore:the predicted layers take")
def test_a_dictionary_that_no_text_gives_back_is_saved_by_its_atoms(dictionary, tmp_path):
    model = wc.convert(
        nn.Sequential(nn.Linear(16, 8)), {"0": wc.Rule(dictionary, 0.25, grid=(4, 4))}
    )
    wc.save(model, tmp_path / "model")
    again = wc.load(tmp_path / "model", nn.Sequential(nn.Linear(16, 8)))
    x = torch.randn(3, 16)
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("field", ["labels", "plan"])
@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), b"x", {1, 2}, object(), np.datetime64("2024-01-01"), 1j, [b"x"]],
    ids=lambda value: repr(value).partition(" at 0x")[0],  # the same in every process
)
def test_what_no_row_could_hold_is_refused_when_the_config_is_made(field, value):
    with pytest.raises(ValueError, match=f"{field} is |plan"):
        TrainConfig(**{field: {"x": value}})


def test_numbers_of_numpy_in_labels_become_pythons():
    labels = TrainConfig(labels={"share": np.float64(0.5), "n": [np.int64(3)]}).labels
    assert json.dumps(labels) == '{"share": 0.5, "n": [3]}'


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )


X = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
QUIET = {"progress": False}
RULE = wc.Rule(d.SingularVectors(), 0.5)


def _small() -> nn.Module:
    return wc.convert(_network(), {"*": wc.Rule(d.DCT(), 0.5)})


VERBS = {
    "convert, seed": lambda n: wc.convert(_network(), {"*": RULE}, inputs=[X], seed=n(3)),
    "compress, seed": lambda n: wc.compress(_network(), {"*": RULE}, [X], seed=n(3), **QUIET),
    "compress, ridge": lambda n: wc.compress(_network(), {"*": RULE}, [X], ridge=n(1), **QUIET),
    "compress, budget": lambda n: wc.compress(_network(), None, [X], budget=n(5000), **QUIET),
    "suggest, fraction": lambda n: wc.suggest(_network(), n(1) / 4, [X], **QUIET),
    "suggest, columns": lambda n: wc.suggest(_network(), 0.25, [X], columns=n(2), **QUIET),
    "suggest, budget": lambda n: wc.suggest(_network(), None, [X], budget=n(5000), **QUIET),
    "probe, fraction": lambda n: wc.probe(_network(), (n(1) / 4,)),
    "probe, columns": lambda n: wc.probe(_network(), (0.25,), columns=n(2), seed=n(3)),
    "distil, steps": lambda n: wc.distil(_small(), _network(), inputs=[X], steps=n(2), **QUIET),
    "pretrain": lambda n: wc.pretrain(
        _small(), [X], layers=["0"], epochs=n(1), batch_size=n(50), max_rows=n(90), **QUIET
    ),
    "layer, columns": lambda n: wc.PredictedLinear(64, 8, rule=wc.Rule(d.DCT(), 0.5, columns=n(2))),
    "layer, seed": lambda n: wc.PredictedLinear(64, 8, dictionary=d.DCT(), fraction=0.5, seed=n(3)),
    "atoms": lambda n: d.DCT().atoms(64, 8, columns=2, grid=n(64), seed=n(3)),
    "grid": lambda n: wc.Grid.of(n(8)).check(8),
}


@pytest.mark.parametrize("number", [np.int64, np.int32, np.array, torch.tensor])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.filterwarnings("ignore")
def test_a_verb_takes_whole_numbers_of_every_kind(verb, number):
    assert VERBS[verb](number) is not None
