"""Inference from several threads gives what one thread gives, for every layer."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import weightcast as wc
from tests.contract.table import LAYERS

THREADS, TIMES = 4, 12


class Attention(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True, **how)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(24, 12)

    def forward(self, x):
        return self.rnn(pack_sequence(list(x)))[0].data


class Twice(nn.Module):
    """One recurrent layer in two places."""

    def __init__(self):
        super().__init__()
        self.a = self.b = nn.GRU(24, 24, batch_first=True)

    def forward(self, x):
        return self.b(self.a(x)[0])[0]


class Head(nn.Module):
    """Fused experts, as transformers has them, are read by the module itself."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(24, 24, batch_first=True)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.fc = nn.Linear(24, 7)

    def forward(self, x):
        x = self.rnn(x)[0]
        return self.fc(self.attention(x, x, x)[0])


NETWORKS = {
    "LSTM": lambda: nn.LSTM(24, 12, batch_first=True),
    "LSTM, two layers, both ways": lambda: nn.LSTM(24, 12, 2, batch_first=True, bidirectional=True),
    "LSTM, projected": lambda: nn.LSTM(24, 12, batch_first=True, proj_size=6),
    "GRU": lambda: nn.GRU(24, 12, batch_first=True),
    "RNN": lambda: nn.RNN(24, 12, batch_first=True),
    "attention": Attention,
    "attention without bias": lambda: Attention(bias=False),
    "attention with other keys": lambda: Attention(kdim=24, vdim=24, add_bias_kv=True),
    "encoder": lambda: nn.TransformerEncoderLayer(24, 4, 48, batch_first=True),
    "packed": Packed,
    "twice": Twice,
    "all": Head,
}


def from_threads(model: nn.Module, inputs: list[tuple[Tensor, ...]]) -> None:
    """Each thread runs on inputs of its own, all at once."""

    def run(x):
        with torch.no_grad():
            return torch.utils._pytree.tree_leaves(model(*x))

    expected = [run(x) for x in inputs]
    start = Barrier(THREADS)

    def work(number):
        start.wait()
        return [run(inputs[number]) for _ in range(TIMES)]

    with ThreadPoolExecutor(THREADS) as threads:
        for number, outputs in enumerate(threads.map(work, range(THREADS))):
            for output in outputs:
                for y, known in zip(output, expected[number], strict=True):
                    torch.testing.assert_close(y, known)


def several(x: Tensor) -> Tensor:
    return x if not x.is_floating_point() else torch.randn(x.shape, dtype=x.dtype)


@pytest.mark.parametrize("path", ["factored", "materialised"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_it_gives_to_one_thread(name, path):
    row = LAYERS[name]
    layer = row.build("DCT", columns=3, path=path).eval()
    from_threads(layer, [tuple(map(several, row.inputs())) for _ in range(THREADS)])


@pytest.mark.parametrize("dictionary", ["DCT", "Kernel", "LowRank", "RandomGaussian"])
def test_every_base_gives_what_it_gives_to_one_thread(dictionary):
    layer = LAYERS["Linear"].build(dictionary, columns=3).eval()
    from_threads(layer, [tuple(map(several, LAYERS["Linear"].inputs())) for _ in range(THREADS)])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("verb", ["convert", "compress"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_network_gives_what_it_gives_to_one_thread(name, verb):
    torch.manual_seed(0)
    dense = NETWORKS[name]().eval()
    rules = {"*": wc.Rule(wc.dictionaries.DCT(), 0.5)}
    model = wc.convert(dense, rules) if verb == "convert" else wc.compress(dense, rules)
    inputs = [(torch.randn(5, 7, 24),) for _ in range(THREADS)]
    from_threads(model.eval(), inputs)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_an_adapted_network_gives_what_it_gives_to_one_thread(name, relative):
    torch.manual_seed(0)
    rule = wc.Rule(wc.dictionaries.DCT(), n_atoms=3, relative=relative)
    model = wc.adapt(NETWORKS[name]().eval(), {"*": rule})
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_()
    from_threads(model, [(torch.randn(5, 7, 24),) for _ in range(THREADS)])


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_of_a_split_module_runs_by_itself(again):
    model = wc.convert(nn.LSTM(24, 12), {"*": wc.Rule(wc.dictionaries.DCT(), 0.5)})
    x = torch.randn(5, 7, 24)
    assert torch.equal(again(model)(x)[0], model(x)[0])
    from_threads(again(model), [(torch.randn(5, 7, 24),) for _ in range(THREADS)])
