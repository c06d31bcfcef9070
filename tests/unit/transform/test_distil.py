"""distil: V learns the dense network's outputs, in place, reproducible and resumable."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.transform.distil import blockwise, losses

DIGITS = load_digits()
ORDER = torch.randperm(len(DIGITS.target), generator=torch.Generator().manual_seed(0))
IMAGES = torch.from_numpy(DIGITS.images / 16).float().unsqueeze(1)[ORDER]
LABELS = torch.from_numpy(DIGITS.target)[ORDER]
TRAIN, TEST = slice(0, 1000), slice(1000, None)
QUIET = {"progress": False}


def make_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(384, 40), nn.ReLU(), nn.Linear(40, 10),
    )  # fmt: skip


@cache
def trained_cnn():
    """Trained on 1,000 digits, and compressed to 6 % of its numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make_cnn()
        optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(8):
            for chosen in torch.randperm(1000).split(50):
                optimiser.zero_grad()
                F.cross_entropy(net(IMAGES[TRAIN][chosen]), LABELS[TRAIN][chosen]).backward()
                optimiser.step()
    net.eval()
    batches = IMAGES[TRAIN].split(250)
    plan = wc.suggest(net, budget=0.06, count="stored", inputs=batches, **QUIET)
    return net, wc.compress(net, plan, batches, **QUIET)


def cnn():
    net, small = trained_cnn()
    return net, copy.deepcopy(small)


@torch.no_grad()
def errors(net):
    """% of the test digits."""
    return 100 * float((net.eval()(IMAGES[TEST]).argmax(1) != LABELS[TEST]).float().mean())


@cache
def llama(predicted=0.5):
    """A random Llama of three blocks, and what half of its numbers make of it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.LlamaForCausalLM(config).eval()
    rule = wc.Rule(d.SingularVectors(), predicted)
    return net, wc.compress(net, {r"re:model\.layers\..*_proj": rule, "*": None}, tokens(), **QUIET)


def tokens(n_batches=4, length=12):
    draws = torch.Generator().manual_seed(3)
    shape = (n_batches, 6, length)
    return [{"input_ids": ids} for ids in torch.randint(50, shape, generator=draws)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def changed(a, b):
    return {name for name, tensor in a.items() if not torch.equal(tensor, b[name])}


def test_a_compressed_cnn_learns_back_what_it_lost():
    net, small = cnn()
    before = errors(small)
    record = wc.distil(small, net, IMAGES[TRAIN], 200, learning_rate=3e-3, loss="kl", **QUIET)
    after, dense = errors(small), errors(net)
    assert before > dense + 3, (before, dense)  # there is something to win back
    assert after < dense + 0.7 * (before - dense)
    assert len(record.losses) == 200
    assert sum(record.losses[-10:]) < 0.5 * sum(record.losses[:10])
    head, *rows = str(record).splitlines()
    assert head.split() == ["steps", "mean", "loss"]
    assert len(rows) == 10
    assert rows[-1].split()[:3] == ["181", "to", "200"]


@pytest.mark.parametrize(("loss", "layerwise"), [(None, False), ("kl", False), (None, True)])
def test_a_language_model_learns_its_teachers_tokens(loss, layerwise):
    net, small = llama()[0], copy.deepcopy(llama()[1])
    batches = tokens()
    before, after = [], []
    for gaps in (before, after):
        for batch in batches:
            with torch.no_grad():
                y, target = small(**batch).logits, net(**batch).logits
            gap = (
                F.kl_div(y.log_softmax(-1), target.softmax(-1), reduction="sum") / y[..., 0].numel()
            )
            gaps.append(float(gap))
        if gaps is before:
            how = {"loss": loss, "layerwise": layerwise, "learning_rate": 1e-3}
            record = wc.distil(small, net, batches, 60, **how, **QUIET)
    assert sum(after) < 0.8 * sum(before)
    if not layerwise:  # the first loss is that of a batch before any step
        assert min(abs(record.losses[0] - gap) for gap in before) < 1e-5


def test_recurrent_layers_learn():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.lstm(x.squeeze(1))[0][:, -1])

    torch.manual_seed(0)
    net = Reader()
    small = wc.compress(net, {"*": None, "re:lstm.*": wc.Rule(d.LowRank(), 0.3)})
    kept, batches = state(small), IMAGES[:200].split(50)
    record = wc.distil(small, net, batches, 40, learning_rate=3e-3, **QUIET)
    assert sum(record.losses[-4:]) < 0.5 * sum(record.losses[:4])
    assert any("atoms" in name for name in changed(kept, state(small)))  # LowRank's U learns
    layerwise = wc.distil(small, net, batches, 4, layerwise=True, **QUIET)
    assert blockwise.find_blocks(small, net) == ["lstm"]
    assert len(layerwise.losses) == 4


@pytest.mark.usefixtures("unmoved_randomness")
@pytest.mark.parametrize(
    ("train", "endings"),
    [
        (("V",), {"V"}),
        (("V", "bias"), {"V", "bias"}),
        (("norm",), {"1.weight", "1.bias", "5.weight", "5.bias"}),
    ],
)
def test_nothing_changes_but_what_is_trained(train, endings):
    net, small = cnn()
    small.train()
    small[0].eval()
    frozen = small[9].bias.requires_grad_(False)
    frozen.grad = gradient = torch.ones_like(frozen)
    small[4].V.grad = other = torch.ones_like(small[4].V)
    modes = [module.training for module in small.modules()]
    kept, dense = state(small), state(net)
    wc.distil(small, net, IMAGES[TRAIN], 3, train=train, **QUIET)
    norms = {f"{place}.{name}" for place in (1, 5) for name in ("weight", "bias")}
    expected = {
        name
        for name, p in small.named_parameters()
        if (name in endings if "norm" in train else name.rpartition(".")[2] in endings - norms)
        and ("norm" in train or name not in norms)
        and p is not frozen
    }
    assert changed(kept, state(small)) == expected
    assert_same(dense, state(net))
    assert modes == [module.training for module in small.modules()]
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["9.bias"]
    assert frozen.grad is gradient
    assert small[4].V.grad is other
    assert not small._forward_hooks


def test_padding_teaches_nothing():
    net = llama()[0]
    masked = [
        dict(batch, attention_mask=torch.ones(6, 12, dtype=torch.int64)) for batch in tokens()
    ]
    for batch in masked:
        batch["attention_mask"][2:, 7:] = 0
    others = [dict(batch, input_ids=batch["input_ids"].clone()) for batch in masked]
    for batch in others:
        batch["input_ids"][2:, 7:] = 1
    for loss in (None, "squared"):
        one, two, unmasked = (copy.deepcopy(llama()[1]) for _ in range(3))
        for small, batches in ((one, masked), (two, others), (unmasked, tokens())):
            wc.distil(small, net, batches, 4, loss=loss, **QUIET)
        for name, tensor in state(one).items():
            assert torch.allclose(tensor, state(two)[name], atol=1e-6), name
        assert not torch.allclose(
            one.model.layers[0].mlp.up_proj.V, unmasked.model.layers[0].mlp.up_proj.V, atol=1e-5
        )


def test_losses_are_what_they_say():
    draws = torch.Generator().manual_seed(0)
    y, target = torch.randn(2, 3, 700, 5, generator=draws, dtype=torch.float64)
    mask = torch.rand(3, 700, generator=draws) < 0.7
    p, q = target.softmax(-1), y.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    for batch, rows in ((None, torch.ones_like(mask)), ({"attention_mask": mask}, mask)):
        found = losses.kl_divergence(y, target, batch)
        assert float(found) == pytest.approx(float(expected[rows].mean()))
        squares = losses.squared_error(y, target, batch)
        shown = target[rows]
        ratio = (y[rows] - shown).square().mean() / (shown - shown.mean()).square().mean()
        assert float(squares) == pytest.approx(float(ratio), rel=1e-5)
    images, targets = (x[:2, :12].reshape(2, 3, 4, 5) for x in (y, target))
    p, q = targets.softmax(1), images.softmax(1)
    pixels = (p * (p / q).log()).sum(1).mean()
    assert float(losses.kl_divergence(images, targets, None, 1)) == pytest.approx(float(pixels))


def test_the_loss_follows_what_the_model_returns():
    draws = torch.Generator().manual_seed(0)
    y, target = torch.randn(2, 6, 5, generator=draws)
    kl, squared = losses.kl_divergence(y, target, None), losses.squared_error(y, target, None)
    choose, plain = losses.find_loss(None, nn.Linear(2, 2)), nn.Linear(2, 2)
    assert torch.equal(choose({"logits": y}, {"logits": target}, None), kl)
    assert torch.equal(choose((y, y), (target, y), None), squared)  # the first tensor
    one = choose({"logits": y[:, :1]}, {"logits": target[:, :1]}, None)
    assert torch.equal(one, losses.squared_error(y[:, :1], target[:, :1], None))
    assert torch.equal(losses.find_loss("kl", plain)(y, target, None), kl)
    plain.config = type("Config", (), {"problem_type": "multi_label_classification"})()
    several = losses.find_loss(None, plain)
    assert torch.equal(several({"logits": y}, {"logits": target}, None), squared)


def test_a_loss_of_ones_own_is_given_the_batch():
    net, small = cnn()
    seen = []

    def loss(student, teacher, batch):
        seen.append(batch[1])
        return F.cross_entropy(student, batch[1]) + 0 * teacher.sum()

    batches = list(zip(IMAGES[TRAIN].split(100), LABELS[TRAIN].split(100), strict=True))
    wc.distil(small, net, batches, 20, loss=loss, **QUIET)
    for epoch in (seen[:10], seen[10:]):  # every batch once in each pass, in another order
        assert sorted(x.tolist() for x in epoch) == sorted(y.tolist() for _, y in batches)
    assert any(not torch.equal(x, y) for x, y in zip(seen[:10], seen[10:], strict=True))


def test_blocks_learn_by_themselves():
    net, small = llama()[0], copy.deepcopy(llama()[1])
    blocks = blockwise.find_blocks(small, net)
    assert blocks == ["model.layers.0", "model.layers.1", "model.layers.2"]
    batch = tokens()[0]
    loss = blockwise.learn_blockwise(small, net, blocks, batch)
    with torch.no_grad():
        targets = net(**batch, output_hidden_states=True).hidden_states
        inputs = small(**batch, output_hidden_states=True).hidden_states
    found = small.model.layers[1].mlp.up_proj.V.grad.clone()
    small.zero_grad()
    cut = copy.deepcopy(small)
    cut.model.layers[1].register_forward_pre_hook(lambda _, args: (inputs[1], *args[1:]))
    y = cut(**batch, output_hidden_states=True).hidden_states[2]
    error = losses.squared_error(y, targets[2], batch) / 3
    error.backward()
    torch.testing.assert_close(found, cut.model.layers[1].mlp.up_proj.V.grad)
    assert cut.model.layers[2].mlp.up_proj.V.grad is None
    assert loss > float(error.detach()) > 0


BOMB = """
import torch, sys
sys.path.insert(0, {here!r})
from test_distil import cnn, IMAGES, TRAIN
import weightcast as wc
net, small = cnn()
wc.distil(small, net, IMAGES[TRAIN], 300, folder={folder!r})
"""


def test_a_killed_process_leaves_a_folder_to_go_on_from(tmp_path):
    code = BOMB.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith("distilling step 60 of 300, loss 0."):
            child.send_signal(signal.SIGKILL)
            break
    child.stderr.close()
    assert child.wait() == -signal.SIGKILL, "".join(lines)
    with safe_open(tmp_path / "layer-00.safetensors", framework="pt") as file:
        done = len(json.loads(file.metadata()["state"])["losses"])
    assert 0 < done < 300
    (net, undisturbed), (_, small) = cnn(), cnn()
    expected = wc.distil(undisturbed, net, IMAGES[TRAIN], 300, **QUIET)
    assert wc.distil(small, net, IMAGES[TRAIN], 300, folder=tmp_path, **QUIET) == expected
    assert_same(state(small), state(undisturbed))
    for change, message in (
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"loss": "kl"}, 'loss was null, is now "kl"'),
        ({"steps": 4}, "steps was 300, is now 4"),
        ({"inputs": IMAGES[:50]}, "inputs was"),
        ({"teacher": make_cnn()}, "teacher was"),
    ):
        options = {"teacher": net, "inputs": IMAGES[TRAIN], "steps": 300, **change}
        with pytest.raises(ValueError, match=f"holds another distillation: .*{message}"):
            wc.distil(small, **options, folder=tmp_path, **QUIET)


def test_what_stops_it_leaves_the_model_as_it_was(tmp_path, refuses):
    net, small = cnn()
    kept = state(small)
    calls = []

    def stops(student, teacher, _):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return (student - teacher).square().mean()

    with pytest.raises(KeyboardInterrupt):
        wc.distil(small, net, IMAGES[TRAIN], 10, loss=stops, folder=tmp_path, **QUIET)
    assert_same(state(small), kept)
    assert all(p.requires_grad for p in small.parameters())
    spoilt = list(IMAGES[TRAIN].clone().split(100))
    spoilt[7][3] = float("nan")
    with refuses(small, "loss became nan", "on batch 7", "as it was before", "learning_rate"):
        wc.distil(small, net, spoilt, 10, **QUIET)
    with refuses(small, "loss became"):
        wc.distil(small, net, IMAGES[TRAIN], 40, learning_rate=1e30, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0: it must be a whole number, 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0: it must be above 0"),
        ({"train": ("weights",)}, r"train is \('weights',\): take some of"),
        ({"train": ()}, r"train is \(\)"),
        ({"loss": "mse"}, "loss is 'mse': take 'kl', 'squared', None or a function"),
        ({"loss": "kl", "layerwise": True}, "layerwise compares by squared errors"),
        ({"loss": lambda y, t, b: y - t}, "must be a tensor without axes"),
        ({"loss": lambda y, t, b: t.sum()}, "does not depend on what is trained"),
        ({"inputs": []}, "inputs is empty"),
        ({"inputs": IMAGES[:10, :, :5]}, "failed on its inputs"),
        ({"small": make_cnn()}, "no predicted layer: compress or convert it first"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 9))}, r"\(100, 10\) .* \(100, 9\)"),
        ({"teacher": lambda small: small}, "the teacher would change: .* is its own parameter too"),
    ],
)
def test_what_cannot_be_is_refused(options, message, refuses):
    net, small = cnn()
    options = {"small": small, "teacher": net, "inputs": IMAGES[:100], "steps": 2, **options}
    if not isinstance(options["teacher"], nn.Module):
        options["teacher"] = options["teacher"](small)
    with refuses(options["small"], message):
        wc.distil(**options, **QUIET)


def test_a_block_of_another_shape_is_named(refuses):
    net, small = cnn()
    other = copy.deepcopy(net)
    other[9] = nn.Linear(384, 41)
    other[11] = nn.Linear(41, 10)
    with refuses(small, r"^block '9': the outputs have shapes \(100, 40\) and, .* \(100, 41\)"):
        wc.distil(small, other, IMAGES[:100], 2, layerwise=True, **QUIET)


def test_frozen_networks_are_refused(refuses):
    net, small = cnn()
    small.requires_grad_(False)
    with refuses(small, "nothing of V, bias requires a gradient"):
        wc.distil(small, net, IMAGES[:100], 2, **QUIET)
