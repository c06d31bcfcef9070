"""MiniLM with fewer blocks, random weights, and a token for each letter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertModel


class Letters:
    """As a tokenizer is called."""

    def __call__(
        self, texts: list[str], *, max_length: int = 20, padding: bool = False, **_: Any
    ) -> dict[str, Any]:
        ids = [[ord(letter) % 90 + 1 for letter in text[: min(max_length, 20)]] for text in texts]
        if not padding:
            return {"input_ids": ids}
        longest = max(map(len, ids))
        tokens = torch.tensor([own + [0] * (longest - len(own)) for own in ids])
        return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


def small_minilm(n_blocks: int = 1, intermediate: int = 1536) -> tuple[Any, Letters]:
    """The encoder, of MiniLM's width, and its tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=384, num_hidden_layers=n_blocks, num_attention_heads=12,
        intermediate_size=intermediate, max_position_embeddings=32,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval(), Letters()
