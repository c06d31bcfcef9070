"""Trained weights are told from drawn ones, and convert says so once."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import init

import weightcast as wc
from weightcast.plan.trained import looks_trained

HALF = wc.Rule(wc.dictionaries.DCT(), 0.5)
SHAPES = [(10, 500), (64, 27), (16, 9), (128, 128), (10, 64), (4, 8), (3, 50), (50, 3), (400, 784)]
DRAWS = {
    "kaiming": lambda w: init.kaiming_uniform_(w, a=5**0.5),
    "xavier": init.xavier_uniform_,
    "normal": lambda w: init.normal_(w, std=0.02),
    "cut": lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "narrow": lambda w: init.trunc_normal_(w, a=-1.0, b=1.0),
    "orthogonal": init.orthogonal_,
    "sparse": lambda w: init.sparse_(w, 0.9),
    "not centred": init.uniform_,
    "padded": lambda w: init.normal_(w)[0].zero_(),
    "bfloat16": lambda w: w.copy_(init.xavier_uniform_(w).bfloat16()),
    "tiny": lambda w: init.normal_(w, std=1e-20),
    "signs": lambda w: w.bernoulli_(0.5).mul_(2).sub_(1),
}
CONSTANT = [init.zeros_, init.ones_, lambda w: init.constant_(w, 0.3), init.eye_]


@pytest.mark.parametrize("name", DRAWS)
def test_no_draw_looks_trained(name):
    """None of 270 draws a distribution, 3,240 in all; 30 of each shape."""
    for shape in SHAPES:
        for seed in range(30):
            torch.manual_seed(seed)
            weight = torch.empty(shape)
            with torch.no_grad():
                DRAWS[name](weight)
            assert not looks_trained(weight), (shape, seed)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_nor_does_a_constant_or_what_has_no_values():
    for shape in SHAPES:
        for constant in CONSTANT:
            assert not looks_trained(constant(torch.empty(shape)))
    assert not looks_trained(torch.empty(30, 30, device="meta"))
    assert not looks_trained(torch.full((30, 30), float("nan")))
    assert not looks_trained(torch.randn(1, 3000))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(40, 64, num_layers=2),
        lambda: nn.TransformerEncoderLayer(64, 4, 128),
        lambda: nn.Conv2d(32, 64, 3, groups=4),
        lambda: nn.ConvTranspose1d(16, 32, 5),
        lambda: nn.Embedding(500, 32, padding_idx=0),
        lambda: nn.Bilinear(20, 20, 30),
    ],
)
def test_torchs_own_layers_are_converted_without_a_word(make):
    for seed in range(10):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wc.convert(nn.Sequential(make()), {"*": HALF})


def test_transformers_own_networks_are_converted_without_a_word():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    configs = [
        transformers.LlamaConfig(**sizes, num_attention_heads=4, vocab_size=500),
        transformers.BertConfig(**sizes, num_attention_heads=4, vocab_size=500),
        transformers.ViTConfig(**sizes, num_attention_heads=4, image_size=32, patch_size=8),
        transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, vocab_size=500, bos_token_id=0, eos_token_id=0
        ),
        transformers.T5Config(d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4),
    ]
    for config in configs:
        model = transformers.AutoModel.from_config(config)
        with warnings.catch_warnings():
            warnings.simplefilter("error", wc.PretrainedWarning)
            wc.convert(model, {"*": HALF})


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip


def trained(make, optimiser, epochs: int) -> nn.Module:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    model = make()
    steps = optimiser(model.parameters())
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            steps.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            steps.step()
    return model.eval()


@pytest.mark.parametrize("make", [perceptron, convolutions])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(
    "optimiser",
    [lambda p: torch.optim.Adam(p, 1e-3), lambda p: torch.optim.SGD(p, 0.1)],
    ids=["adam", "sgd"],
)
def test_a_network_trained_on_digits_looks_trained(make, epochs, optimiser):
    model = trained(make, optimiser, epochs)
    with pytest.warns(wc.PretrainedWarning) as caught:
        wc.convert(model, {"*": HALF})
    assert len(caught) == 1
    said = str(caught[0].message)
    assert "looks trained" in said
    assert "weightcast.compress keeps" in said
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wc.convert(model, {"*": HALF}, warn_pretrained=False)
        wc.compress(model, {"*": HALF}, progress=False)


def test_only_what_is_replaced_is_looked_at():
    model = trained(perceptron, lambda p: torch.optim.Adam(p, 1e-3), 1)
    model[2] = nn.Linear(100, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wc.convert(model, {"2": HALF})


def test_heavy_tails_and_a_strong_direction_are_signs_each():
    torch.manual_seed(0)
    drawn = torch.randn(60, 90)
    assert not looks_trained(drawn)
    assert looks_trained(drawn * (0.8 * torch.randn(60, 90)).exp())
    assert looks_trained(drawn + 0.5 * torch.randn(60, 1) * torch.randn(1, 90))
