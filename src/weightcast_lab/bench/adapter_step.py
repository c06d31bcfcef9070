"""A step of training of an adapted encoder, and what it keeps for the backward pass, beside PEFT's.

    python -m weightcast_lab.bench.adapter_step [N_ATOMS COLUMNS]

Six blocks of MiniLM's sizes, 32 texts of 32 tokens, one thread; all methods learn as many weights.
"""

from __future__ import annotations

import copy
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import weightcast as wc
from weightcast.storage import checkpoint_bytes, saved_bytes

N_STEPS, WARM_UP = 14, 4
LINEAR = ["query", "key", "value", "dense"]


def encoder(width: int = 384, n_blocks: int = 6) -> Any:
    """Random weights, for time and memory do not depend on them."""
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=3000,
        hidden_size=width,
        num_hidden_layers=n_blocks,
        num_attention_heads=12,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def contenders(network: Any, n_atoms: int, columns: int) -> dict[str, nn.Module]:
    """Ours, LoRA of half as many ranks, LoRA with A fixed, and the network with nothing added."""
    peft = importlib.import_module("peft")
    rule = wc.Rule(wc.dictionaries.PCA(whiten=True), n_atoms=n_atoms, columns=columns)
    batches = [{"input_ids": batch} for batch in torch.randint(3000, (4, 32, 32))]
    lora, fixed = (
        peft.get_peft_model(copy.deepcopy(network), peft.LoraConfig(r=r, target_modules=LINEAR))
        for r in (n_atoms // 2, n_atoms)
    )
    for name, parameter in fixed.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    frozen = copy.deepcopy(network).requires_grad_(False)
    frozen.embeddings.LayerNorm.bias.requires_grad_(True)  # the gradient goes all the way
    ours = wc.adapt(network, {"re:encoder.*": rule}, inputs=batches)
    return {"ours": ours, "LoRA": lora, "LoRA, A fixed": fixed, "frozen": frozen}


def take_step(model: nn.Module, optimiser: torch.optim.Optimizer, tokens: Tensor) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    model(input_ids=tokens).last_hidden_state.square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    return time.perf_counter() - start


def kept_bytes(model: nn.Module, tokens: Tensor) -> int:
    """What autograd keeps, each memory once, without parameters."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=tokens)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in found.items() if place not in own)


def sizes(adapted: nn.Module) -> dict[str, int]:
    """Bytes of an adapter's folder, as we keep it and as PEFT does."""
    with tempfile.TemporaryDirectory() as folder:
        wc.export_peft(adapted, Path(folder) / "lora")
        lora = saved_bytes(Path(folder) / "lora")
    own = {"saved": checkpoint_bytes(adapted), "in 8 bits": checkpoint_bytes(adapted, bits=8)}
    return own | {"as PEFT's": lora}


def main(words: list[str]) -> None:
    """Time all in turn, and print medians of the ratios to LoRA's steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n_atoms, columns = map(int, words or ("4", "16"))
    models, tokens = contenders(encoder(), n_atoms, columns), torch.randint(3000, (32, 32))
    learned = {n: [p for p in m.parameters() if p.requires_grad] for n, m in models.items()}
    optimisers = {name: torch.optim.Adam(own, 1e-4) for name, own in learned.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    print("bytes of ours:", ", ".join(f"{n} {size:,}" for n, size in sizes(models["ours"]).items()))
    for _ in range(N_STEPS):
        for name, model in models.items():
            times[name].append(take_step(model, optimisers[name], tokens))
    for name, model in models.items():
        own, lora = times[name][WARM_UP:], times["LoRA"][WARM_UP:]
        ratio = statistics.median(a / b for a, b in zip(own, lora, strict=True))
        print(
            f"{name:13} {sum(p.numel() for p in learned[name]):7,} learned, "
            f"{statistics.median(own):.3f} s, {ratio:.3f} of LoRA's, "
            f"keeps {kept_bytes(model, tokens) / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
