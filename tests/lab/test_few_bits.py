"""Few bits: what a compressed language model loses when its numbers are rounded."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d
from weightcast_lab.studies.few_bits import nats, rows


def test_every_network_has_a_line_for_each_number_of_bits(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, initializer_range=0.1,
    )  # fmt: skip
    dense = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.randint(40, (3, 16))
    plan = {r"re:model\.layers\..*_proj": wc.Rule(d.SingularVectors(), 0.25), "*": None}
    small = wc.compress(dense, plan, progress=False)
    wc.save(small, tmp_path / "small")
    lines = list(rows(dense, [str(tmp_path / "small")], tokens))
    assert [(name == "dense", bits) for name, bits, *_ in lines] == [
        (is_dense, bits) for is_dense in (True, False) for bits in ("float32", "8", "4")
    ]
    weights = [float(line[2]) for line in lines]
    assert weights[:3] == [32.0, 8.25, 4.25]
    n_dense = sum(m.weight.numel() for n, m in dense.named_modules() if n.endswith("_proj"))
    n_small = sum(m.V.numel() + m.atoms.base.n_static for m in small.modules() if hasattr(m, "V"))
    assert weights[4] == pytest.approx(8.25 * n_small / n_dense, rel=0.03)  # and indices
    losses = [float(line[3]) for line in lines]
    assert losses[0] == pytest.approx(nats(dense, tokens), abs=1e-4)
    assert losses[3] == pytest.approx(nats(small, tokens), abs=1e-4)
    assert abs(losses[1] - losses[0]) < abs(losses[2] - losses[0]) < 0.1
