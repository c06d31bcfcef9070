"""Walk: the cost of seeing all layers does not depend on the depth, of transformers too."""

from __future__ import annotations

from functools import wraps
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import weightcast as wc
from weightcast.inputs import walk
from weightcast.inputs.gather import MOMENTS
from weightcast.inputs.walk import Walk, block_of

RULE = wc.Rule(wc.dictionaries.SingularVectors(), 0.5)


def llama(depth: int):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=depth, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=30,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def batches(n: int):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(30, (2, 12), generator=generator)} for _ in range(n)]


@pytest.fixture
def counted(monkeypatch):
    """Counts the runs of blocks and of linear layers."""
    counts = {"blocks": 0, "layers": 0}
    for kind, name in ((LlamaDecoderLayer, "blocks"), (nn.Linear, "layers")):

        def count(forward=kind.forward, name=name):
            @wraps(forward)
            def run(*args, **kwargs):
                counts[name] += 1
                return forward(*args, **kwargs)

            return run

        monkeypatch.setattr(kind, "forward", count())
    return counts


@pytest.mark.parametrize(
    ("options", "most", "products"),
    [
        ({}, 16, 3.0),
        ({"target": "compressed"}, 10, 2.0),
        ({"refresh": "block", "target": "compressed"}, 4, 3.0),
        ({"refresh": "never"}, 4, 3.0),
    ],
)
def test_a_block_runs_a_bounded_number_of_times(counted, options, most, products):
    runs = []
    for depth in (4, 8, 16):
        counted.update(blocks=0, layers=0)
        plan = {r"re:model\.layers\..*": RULE}
        wc.compress(llama(depth), plan, batches(4), progress=False, **options)
        runs.append(counted["blocks"] / depth / 4)
        assert counted["layers"] / (7 * depth) / 4 < products
    assert max(runs) <= most
    assert max(runs) / min(runs) < 1.1


@pytest.mark.parametrize("verb", ["probe", "suggest", "convert"])
def test_other_verbs_walk_as_cheaply(counted, verb):
    runs = []
    for depth in (4, 8):
        counted.update(blocks=0)
        model, x = llama(depth), batches(4)
        if verb == "probe":
            wc.probe(model, (0.5,), inputs=x, progress=False)
        elif verb == "suggest":
            wc.suggest(model, budget=0.9, inputs=x, count="stored", progress=False)
        else:
            rule = wc.Rule(wc.dictionaries.Covariance(), 0.5)
            wc.convert(model, {r"re:model\.layers\..*": rule}, x, warn_pretrained=False)
        runs.append(counted["blocks"] / depth / 4)
    assert max(runs) <= 10
    assert max(runs) / min(runs) < 1.15


def test_layers_of_one_input_share_their_moments():
    model = llama(2)
    names = [f"model.layers.0.{n}" for n in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")]
    needs = dict.fromkeys(names, (MOMENTS,))
    with Walk(model, names, batches(2), needs, 0) as walk:
        q, k, up = (walk.given(name, model) for name in names)
        assert q is k
        assert q is not up
        assert q.moments.n_rows == 48
        for name in names[:2]:
            walk.settle(name)
        assert not walk._found.keys() & set(names[:2])  # moments of what is done are dropped


def test_a_block_is_an_entry_of_the_outermost_list():
    model = llama(2)
    assert block_of(model, "model.layers.1.mlp.up_proj") == "model.layers.1"
    assert block_of(model, "lm_head") == "lm_head"
    nested = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert block_of(nested, "0.0") == "0"
    assert block_of(nn.LSTM(2, 2), "ih_l0") == "ih_l0"


def test_a_line_says_where_whole_passes_are_needed():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x)) if len(x) > 3 else self.b(x)

    said: list[str] = []
    x = [torch.randn(5, 4), torch.randn(2, 4)]
    with Walk(Sometimes(), ["a", "b"], x, {}, 0, say=said.append):
        assert said == ["a is not called equally often on all batches: whole passes for it"]


def test_replays_that_would_change_what_layers_are_given_are_not_used():
    class Remembers(nn.Module):
        """The second module looks at what the first one left in a list of its own."""

        class Writer(nn.Linear):
            def forward(self, x):
                self.notes[:] = [x.sum()]
                return super().forward(x)

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = self.Writer(4, 4), nn.Linear(4, 4)
            self.first.notes = []

        def forward(self, x):
            self.first.notes.clear()
            x = self.first(x)
            return self.second(x * (1 + len(self.first.notes)))

    said: list[str] = []
    torch.manual_seed(0)
    model, x = Remembers(), torch.randn(9, 4)
    needs = {"second": (MOMENTS, "covariance")}
    with Walk(model, ["second"], [x], needs, 0, say=said.append) as walk:
        assert "second is given other inputs where modules are replayed" in said[0]
        covariance = walk.given("second", model).statistics().covariance
    expected = torch.cov(2 * model.first(x).detach().double().t())
    torch.testing.assert_close(covariance, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", ["glibc", "another", "none"])
def test_freed_memory_is_given_back_where_the_c_library_can(library, monkeypatch):
    given_back = []

    def loaded(name):
        if library == "none":  # Windows has no library without a name
            raise TypeError(name)
        known = {"malloc_trim": given_back.append} if library == "glibc" else {}
        return SimpleNamespace(**known)

    monkeypatch.setattr(walk.ctypes, "CDLL", loaded)
    small = wc.compress(llama(1), {r"re:.*(q|down)_proj": RULE}, batches(2), progress=False)
    assert len(wc.ledger(small).rows) > 2
    assert given_back == ([0, 0] if library == "glibc" else [])  # once for each layer
