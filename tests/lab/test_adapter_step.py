"""A step of an adapter beside LoRA's: equal counts, less kept, and sizes of both folders."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from weightcast_lab.bench.adapter_step import (
    CONTENDERS,
    allocated_bytes,
    encoder,
    kept_bytes,
    learned,
    sizes,
    step_of,
)

OURS = "weightcast, 16 columns"


@pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers' own, which PEFT asks for
def test_equal_learned_weights_keep_less_than_lora_and_a_step_is_taken():
    models = {name: make(encoder(width=192, n_blocks=1)) for name, make in CONTENDERS.items()}
    tokens = torch.randint(3000, (8, 16))
    counts = {name: sum(p.numel() for p in learned(model)) for name, model in models.items()}
    assert {counts[name] for name in (OURS, "LoRA", "LoRA, A fixed")} == {4 * 9 * 192}
    kept = {name: kept_bytes(model, tokens) for name, model in models.items()}
    assert kept["frozen"] < kept[OURS] < kept["LoRA"] < kept["all weights"]
    most = {name: allocated_bytes(step_of(model, tokens)) for name, model in models.items()}
    assert kept[OURS] < most[OURS] < most["LoRA"]
    before = [p.clone() for p in learned(models[OURS])]
    step_of(models[OURS], tokens)()
    after = learned(models[OURS])
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    found = sizes(models[OURS])
    assert found["in 8 bits"] < found["saved"] < found["as PEFT's"]
