"""A step of an adapter beside LoRA's: equal counts, less kept, and sizes of both folders."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from weightcast_lab.bench.adapter_step import contenders, encoder, kept_bytes, sizes, take_step


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own, which PEFT asks for
def test_equal_learned_weights_keep_less_than_lora_and_a_step_is_taken():
    torch.manual_seed(0)
    models = contenders(encoder(width=48, n_blocks=1), 4, 4)
    tokens = torch.randint(3000, (8, 16))
    learned = {n: [p for p in m.parameters() if p.requires_grad] for n, m in models.items()}
    counts = {name: sum(p.numel() for p in own) for name, own in learned.items()}
    assert counts["ours"] == counts["LoRA"] == counts["LoRA, A fixed"] == 4 * (4 + 4 + 1) * 48
    kept = {name: kept_bytes(model, tokens) for name, model in models.items()}
    assert kept["frozen"] < kept["ours"] < kept["LoRA"]
    before = [p.clone() for p in learned["ours"]]
    assert take_step(models["ours"], torch.optim.Adam(learned["ours"], 0.01), tokens) > 0
    assert all((a != b).any() for a, b in zip(before, learned["ours"], strict=True))
    found = sizes(models["ours"])
    assert found["in 8 bits"] < found["saved"] < found["as PEFT's"]
