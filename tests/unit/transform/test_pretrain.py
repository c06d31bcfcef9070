"""pretrain: greedy layer-wise autoencoders, in place, reproducible and resumable."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.inputs.gather import collect_statistics
from weightcast.inputs.replay import Replay
from weightcast.layers.rule import layer_seed
from weightcast.transform import state_folder
from weightcast.transform.pretrain import PretrainedLayer, pretrain

IMAGES = torch.from_numpy(load_digits().images / 16).float().unsqueeze(1)
QUICK = {"epochs": 2, "batch_size": 20, "learning_rate": 0.01, "progress": False}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)  # of the dense layers' own initialisation


def digits(n_rows, side=8):
    """(n_rows, side * side) real digits in [0, 1]."""
    return nn.functional.adaptive_avg_pool2d(IMAGES[:n_rows], side).flatten(1)


def make_model(first=None, second=None, activation=nn.Sigmoid, seed=0):
    """64-20-12-3 with both hidden layers predicted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, 20), activation(), nn.Linear(20, 12), activation(), nn.Linear(12, 3)
        )
    plan = {
        "0": wc.Rule(first or d.Kernel(), 0.25, columns=2, grid=(8, 8)),
        "2": wc.Rule(second or d.Covariance(), 0.5, columns=2),
    }
    return wc.convert(model, plan, inputs=digits(100), seed=seed)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


DICTIONARIES = {
    "Kernel": d.Kernel(),
    "Covariance": d.Covariance(),
    "SquaredCovariance": d.SquaredCovariance(),
    "Autoencoder": d.Autoencoder(epochs=2),
    "PCA": d.PCA(),
    "RandomConnections": d.RandomConnections(),
    "RandomGaussian": d.RandomGaussian(),
    "LowRank": d.LowRank(),
}


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_every_dictionary_learns_by_v_and_bias_alone(name, kind):
    x = digits(60)
    dictionary = DICTIONARIES[name]
    if kind == "linear":
        model = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 2))
        rule = wc.Rule(dictionary, 0.25, columns=2, grid=(8, 8))
    else:
        x = x[:12].view(-1, 1, 8, 8)
        model = nn.Sequential(nn.Conv2d(1, 6, 4, padding=1), nn.ReLU(), nn.Flatten())
        rule = wc.Rule(dictionary, 0.25, columns=2)
    model = wc.convert(model, {"0": rule}, inputs=x)
    untrained, before = copy.deepcopy(model), state(model)
    (start,) = pretrain(untrained, x, **QUICK | {"epochs": 1, "learning_rate": 1e-30})
    (record,) = pretrain(model, x, **QUICK | {"epochs": 4})
    assert record.losses[-1] < record.losses[0]
    assert start.reconstructed < record.reconstructed <= 1
    learned = {"0.V", "0.bias"} | ({"0.atoms.base.atoms"} if name == "LowRank" else set())
    changed = {key for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert learned <= changed
    # The inputs are those of convert, so that data-driven atoms come out the same: up to rounding,
    # since convert saw them in one batch.
    remade = {key for key in before if "atoms" in key} if dictionary.needs else set()
    assert changed <= learned | remade
    for key in remade:
        torch.testing.assert_close(state(model)[key], before[key], rtol=1e-3, atol=1e-3)


def test_records_tell_what_happened():
    x = digits(60)
    records = pretrain(make_model(), x, **QUICK)
    assert [record.name for record in records] == ["0", "2"]
    assert all(len(record.losses) == 2 and record.n_rows == 60 for record in records)
    assert records[0] == PretrainedLayer(**dataclasses.asdict(records[0]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        records[0].n_rows = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_remade_layer_is_what_convert_would_make_of_these_codes():
    model, x = make_model(second=d.Autoencoder(epochs=2)), digits(60)
    pretrain(model, [x], **QUICK | {"layers": ["0"]}, seed=5)
    seed = layer_seed(5, "2")
    statistics = collect_statistics(
        model, "2", Replay([x], [], {}), ("sample",), torch.Generator().manual_seed(seed)
    )
    expected = wc.PredictedLinear.from_dense(
        model[2].to_dense(), model[2].rule, seed=seed, statistics=statistics
    )
    V = model[2].V
    pretrain(model, [x], **QUICK | {"layers": ["2"], "epochs": 1, "learning_rate": 1e-30}, seed=5)
    assert model[2].V is V  # an optimiser made before keeps hold of it
    assert_same(state(model[2]), state(expected))


@pytest.mark.usefixtures("unmoved_randomness")
def test_the_same_call_gives_the_same_whatever_the_global_state():
    model, x = make_model(), digits(60)
    models = [copy.deepcopy(model) for _ in range(3)]
    before = torch.get_rng_state()
    records = [pretrain(models[0], x, **QUICK, max_rows=40)]
    torch.manual_seed(99)
    records.append(pretrain(models[1], x, **QUICK, max_rows=40))
    torch.set_rng_state(before)
    pretrain(models[2], x, **QUICK, max_rows=40, seed=1)
    assert records[0] == records[1]
    assert records[0][0].n_rows == 40
    assert_same(state(models[0]), state(models[1]))
    assert not torch.equal(models[0][2].V, models[2][2].V)


def test_rows_come_in_another_order_in_each_epoch_and_another_sample_for_each_seed():
    def order(seed):
        seen = []

        def spy(a):
            seen.extend(a.sum(dim=1).tolist())
            return a.sigmoid()

        options = QUICK | {"layers": ["0"], "learning_rate": 1e-30}
        pretrain(make_model(), digits(60), **options, max_rows=40, seed=seed, activation=spy)
        return [seen[40 * i : 40 * (i + 1)] for i in range(3)]

    first, second, at_end = order(0)
    assert first != second
    np.testing.assert_allclose(sorted(first), sorted(second), atol=1e-5)
    np.testing.assert_allclose(sorted(first), sorted(at_end), atol=1e-5)
    other = order(1)[0]
    assert not np.allclose(sorted(other), sorted(first), atol=1e-3)


def test_a_layer_does_not_depend_on_which_others_are_trained():
    x = digits(60)
    both, one = make_model(second=d.DCT()), make_model(second=d.DCT())
    pretrain(both, x, **QUICK)
    pretrain(one, x, **QUICK | {"layers": ["0"]})
    assert_same(state(both[0]), state(one[0]))
    pretrain(one, x, **QUICK | {"layers": ["2"]})
    assert_same(state(both), state(one))


def test_nothing_else_of_the_model_changes():
    model, x = make_model(), digits(60)
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[2].V.grad = gradient = torch.ones_like(model[2].V)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before = state(model)
    with torch.no_grad():  # as a caller may
        pretrain(model, x, **QUICK)
    assert [m.training for m in model] == [True, True, True, False, True]
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert model[2].V.grad is gradient
    assert model[0].V.grad is None
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"0.V", "2.V", "2.bias"} <= changed
    assert not {"0.bias", "4.weight", "4.bias"} & changed
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_dense_layers_are_trained_when_named():
    model, x = make_model(), digits(60)
    dense = nn.Sequential(nn.Linear(64, 20, bias=False), nn.ReLU(), nn.Linear(20, 2))
    before = state(dense)
    (record,) = pretrain(dense, x, **QUICK | {"layers": ["0"]})
    assert record.losses[1] < record.losses[0]
    assert not torch.equal(dense[0].weight, before["0.weight"])
    assert torch.equal(dense[2].weight, before["2.weight"])
    merged = wc.merge(model)
    mixed = nn.Sequential(merged[0], *model[1:])
    assert [r.name for r in pretrain(mixed, x, **QUICK | {"layers": ["2", "0"]})] == ["0", "2"]


class Twice(nn.Module):
    def __init__(self, second=nn.Tanh):
        super().__init__()
        shared = nn.Linear(16, 16)
        self.body = nn.Sequential(shared, nn.Tanh(), shared, second())

    def forward(self, x):
        return self.body(x)


def test_a_shared_layer_is_trained_once_on_the_inputs_of_both_places():
    x = digits(30, side=4)
    model = wc.convert(Twice(), {"body.0": wc.Rule(d.DCT(), 0.5, grid=(4, 4))})
    (record,) = pretrain(model, x, **QUICK | {"layers": ["body.2", "body.0"]})
    assert record.name == "body.0"
    assert record.n_rows == 60
    other = wc.convert(Twice(nn.ReLU), {"body.0": wc.Rule(d.DCT(), 0.5, grid=(4, 4))})
    with pytest.raises(ValueError, match=r"'body.0' is not followed by one .* Tanh and ReLU"):
        pretrain(other, x, **QUICK)
    pretrain(other, x, **QUICK, activation=torch.tanh)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.idle, self.second, self.first = nn.Linear(4, 4), nn.Linear(10, 6), nn.Linear(64, 10)

    def forward(self, x, scale=1.0):
        return self.second(torch.relu(self.first(x * scale)))


def test_activations_can_be_told_and_inputs_come_in_every_form():
    x = digits(40)
    plan = {"first": wc.Rule(d.DCT(), 0.5, grid=(8, 8)), "second": wc.Rule(d.PCA(), 0.5)}
    model = wc.convert(Functional(), plan, inputs=x)
    results = []
    targets = torch.zeros(20)
    for inputs in (
        [x[:20], x[20:]],
        [(x[:20], targets), (x[20:], targets)],
        [{"x": x[:20] / 2, "scale": 2.0}, {"x": x[20:] / 2, "scale": 2.0}],
        iter([x[:20], x[20:]]),
    ):
        told = {"first": torch.relu, "second": nn.Identity()}
        results.append(pretrain(copy.deepcopy(model), inputs, **QUICK, activation=told))
    assert [record.name for record in results[0]] == ["first", "second"]
    assert results[0] == results[1] == results[2] == results[3]
    with pytest.raises(ValueError, match=r"layer 'second' is not followed .* name it"):
        pretrain(model, x, **QUICK, activation={"first": torch.relu})


def test_rates_follow_the_scale_of_the_dictionary():
    @dataclasses.dataclass(frozen=True)
    class Scaled(d.Dictionary):
        factor: float = 1.0

        def build(self, site):
            atoms = d.RandomGaussian().build(site)
            atoms.base.atoms.mul_(self.factor)
            return atoms

    x, losses = digits(60).double(), []
    for factor in (1.0, 100.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 20), nn.ReLU()).double()
        model = wc.convert(model, {"0": wc.Rule(Scaled(factor), 0.25)})
        losses.append(pretrain(model, x, **QUICK)[0].losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0: it must be a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_rows": 1}, "max_rows is 1: it must be a whole number, 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"loss": "hinge"}, "loss is 'hinge', none of 'squared', 'cross-entropy'"),
        ({"layers": []}, "layers is empty"),
        ({"layers": ["1"]}, "layers: '1' is no predicted layer, nor a dense one"),
        ({"activation": {"9": torch.relu}}, "activation: no layer '9' is trained; known: 0, 2"),
        ({"activation": nn.ReLU}, r"is <class .*: take a function of a tensor"),
        ({"activation": lambda a: a[:, :1]}, r"layer '0': .*\(20, 20\) into \(20, 1\): it must be"),
        ({"learning_rate": 1e30}, "layer '0': the loss became (nan|inf): take a smaller"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        pretrain(make_model(), digits(60), **QUICK | options)


@pytest.mark.parametrize(
    ("make_inputs", "options", "message"),
    [
        (lambda x: x[:0], {}, "inputs is empty"),
        (lambda x: [x[:0], x[:1]], {}, r"layer '0': it saw 1 input row\(s\)"),
        (lambda x: x / x.new_tensor([0.0, *[1.0] * 63]), {}, "NaN or infinite: clean the inputs"),
        (lambda x: torch.ones_like(x), {}, "its 60 input rows are all the same"),
        (
            lambda x: x * 3 - 1,
            {"loss": "cross-entropy"},
            r"layer '0': loss 'cross-entropy' needs .*\[0, 1\], and these run from -1 to 2: take",
        ),
    ],
)
def test_inputs_are_checked(make_inputs, options, message, refuses):
    model = make_model(second=d.DCT())
    with refuses(model, message):
        pretrain(model, make_inputs(digits(60)), **QUICK | options)


def test_models_that_cannot_be_trained_are_refused(refuses):
    x = digits(30)
    dense = nn.Sequential(nn.Linear(64, 5), nn.ReLU())
    with refuses(dense, r"no predicted layer: convert it first, or name dense layers"):
        pretrain(dense, x, **QUICK)
    idle = Functional()
    with refuses(idle, r"does not call 'idle' on these inputs.*leave such layers out by layers="):
        pretrain(idle, x, **QUICK, layers=["first", "idle"], activation=torch.relu)
    frozen = make_model()
    frozen[0].V.requires_grad_(False)
    with refuses(
        frozen, r"layer '0': its weights require no gradient: call requires_grad_\(True\)"
    ):
        pretrain(frozen, x, **QUICK)


class Bomb(nn.Sigmoid):
    """A sigmoid that raises KeyboardInterrupt at its n-th call."""

    def __init__(self, fuse=-1):
        super().__init__()
        self.fuse = fuse

    def forward(self, input):
        self.fuse -= 1
        if self.fuse == 0:
            raise KeyboardInterrupt
        return super().forward(input)


def interrupted(model, x, folder, fuse, **options):
    with pytest.raises(KeyboardInterrupt):
        pretrain(model, x, **QUICK | options, folder=folder, activation=Bomb(fuse))


@pytest.mark.parametrize("second", [d.Covariance(), d.Autoencoder(epochs=1), d.LowRank()])
def test_an_interrupted_call_goes_on_to_bit_equal_results(tmp_path, second):
    # g is called 7 times a layer: in 3 steps for each of 2 epochs, and once at the end.
    x, undisturbed = digits(60), make_model(second=second)
    expected = pretrain(undisturbed, x, **QUICK, activation=Bomb())
    model = make_model(second=second)
    for fuse in (2, 5, 5, 5):  # in the first epoch and the second, of either layer
        interrupted(model, x, tmp_path, fuse)
    assert pretrain(model, x, **QUICK, activation=Bomb(), folder=tmp_path) == expected
    assert_same(state(model), state(undisturbed))
    # All is done: nothing is trained, and a new model is given the results.
    fresh = make_model(second=second)
    assert pretrain(fresh, x, **QUICK, activation=Bomb(1), folder=tmp_path) == expected
    assert_same(state(fresh), state(undisturbed))


def test_death_at_any_write_leaves_a_folder_to_go_on_from(tmp_path, monkeypatch):
    x, undisturbed = digits(60), make_model()
    expected = pretrain(undisturbed, x, **QUICK)
    real, moments = os.fsync, 0

    def dying(descriptor):
        nonlocal moments
        moments -= 1
        if moments == 0:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", dying)
    n_writes = 1 + 2 * (1 + QUICK["epochs"])
    for moment in range(1, 2 * n_writes + 1):  # before and after each file takes its place
        folder = tmp_path / str(moment)
        moments = moment
        with pytest.raises(KeyboardInterrupt):
            pretrain(make_model(), x, **QUICK, folder=folder)
        model = make_model()
        assert pretrain(model, x, **QUICK, folder=folder) == expected
        assert_same(state(model), state(undisturbed))
    assert not list(tmp_path.glob("*/.*"))


def test_death_inside_a_write_leaves_a_folder_to_go_on_from(tmp_path, monkeypatch):
    x, undisturbed = digits(60), make_model()
    expected = pretrain(undisturbed, x, **QUICK)
    calls = 0

    def dying(tensors, path, **options):
        nonlocal calls
        calls -= 1
        save_file(tensors, path, **options)
        if calls == 0:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(state_folder, "save_file", dying)
    for moment in (1, 2, 3, 1):
        calls = moment
        with pytest.raises(KeyboardInterrupt):
            pretrain(make_model(), x, **QUICK, folder=tmp_path)
    assert pretrain(make_model(), x, **QUICK, folder=tmp_path) == expected


CHILD = """
import sys
sys.path.insert(0, {here!r})
import test_pretrain as t
t.pretrain(t.make_model(), t.digits(60), **t.QUICK | {{"epochs": 60, "progress": True}},
           folder={folder!r})
"""


def test_a_killed_process_leaves_a_folder_to_go_on_from(tmp_path):
    folder, options = tmp_path / "state", QUICK | {"epochs": 60}
    code = CHILD.format(here=os.path.dirname(__file__), folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith("pre-training 2: epoch 5 "):
            child.send_signal(signal.SIGKILL)
            break
    child.stderr.close()
    assert child.wait() == -signal.SIGKILL, "".join(lines)
    with safe_open(folder / "layer-01.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["state"])
    assert 5 <= facts["epochs"] < 60
    x, undisturbed, model = digits(60), make_model(), make_model()
    expected = pretrain(undisturbed, x, **options)
    assert pretrain(model, x, **options, folder=folder) == expected
    assert_same(state(model), state(undisturbed))


def test_a_folder_of_another_pretraining_is_refused_naming_what_differs(tmp_path):
    x = digits(60)
    pretrain(make_model(), x, **QUICK, folder=tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    changed = make_model()
    with torch.no_grad():
        changed[4].bias += 1
    for model, inputs, options, message in (
        (make_model(), x, {"epochs": 3}, "epochs was 2, is now 3"),
        (make_model(), x, {"seed": 3}, "seed was 0, is now 3"),
        (make_model(), x, {"activation": torch.relu}, r'activation was "Sigmoid\(\)", is now "'),
        (make_model(), x + 1, {}, "inputs was"),
        (make_model(first=d.DCT()), x, {}, r"layers.0.rule.dictionary.kind was \"Kernel\", is"),
        (make_model(seed=1), x, {}, r"layers\.0\.atoms was .*; rest of the model was"),
        (changed, x, {}, "another pre-training: rest of the model was"),
        (make_model(), x, {"layers": ["2"]}, "layers.0 was"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(model, inputs, **QUICK | options, folder=tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_layers_not_begun_must_start_from_the_same_values(tmp_path):
    x = digits(60)
    interrupted(make_model(second=d.DCT()), x, tmp_path, 2, loss="squared")
    other = make_model(second=d.DCT())
    with torch.no_grad():
        other[0].V += 1  # begun: the folder knows better
    copied = copy.deepcopy(other)
    with torch.no_grad():
        copied[2].V += 1
    with pytest.raises(ValueError, match=r"another pre-training: initial\.2 was"):
        pretrain(copied, x, **QUICK, folder=tmp_path, activation=Bomb())
    pretrain(other, x, **QUICK, folder=tmp_path, activation=Bomb())


def test_damaged_folders_are_refused(tmp_path):
    x = digits(60)
    for name, message in (
        ("layer-01.safetensors", "layer '2': .*layer-01.safetensors is damaged .*: remove it"),
        ("pretraining.json", "pretraining.json is damaged .*: choose another folder"),
    ):
        folder = tmp_path / name
        pretrain(make_model(), x, **QUICK, folder=folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=message):
            pretrain(make_model(), x, **QUICK, folder=folder)
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"holds layer-00\.safetensors but no pretraining\.json"):
        pretrain(make_model(), x, **QUICK, folder=folder)
    # Removing a damaged layer, as the message says, has it trained again.
    model, undisturbed = make_model(), make_model()
    pretrain(undisturbed, x, **QUICK)
    pretrain(model, x, **QUICK, folder=tmp_path / "layer-01.safetensors")
    assert_same(state(model), state(undisturbed))


def test_an_estimators_dictionary_needs_no_text_form(tmp_path):
    from sklearn.decomposition import PCA

    x = digits(100)
    dictionary = d.FromEstimator(PCA(20).fit(x.numpy()))
    model = make_model(first=dictionary)
    pretrain(model, x, **QUICK, folder=tmp_path)
    assert pretrain(model, x, **QUICK, folder=tmp_path)[1].name == "2"


def test_progress_is_a_line_per_epoch_in_a_log(capfd, tmp_path):
    options = QUICK | {"progress": True}
    pretrain(make_model(), digits(60), **options, folder=tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, expected in zip(
        lines, ("0: epoch 1", "0: epoch 2", "2: epoch 1", "2: epoch 2"), strict=True
    ):
        assert re.fullmatch(rf"pre-training {expected} of 2, loss \d+\.\d{{4}}", line)
    pretrain(make_model(), digits(60), **options, folder=tmp_path)
    assert "pre-training 2: 2 of 2 epochs were done before" in capfd.readouterr().err
    pretrain(make_model(), digits(60), **QUICK)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_progress_is_a_bar_on_a_terminal_where_tqdm_is_there(capsys, monkeypatch, has_tqdm):
    if has_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pretrain(make_model(), digits(60), **QUICK | {"progress": True})
    shown = capsys.readouterr().err
    assert ("100% |" in shown) == has_tqdm
    assert "2: epoch 2 of 2, loss" in shown
