"""Blocks of transformers' Llama with random weights, from rows of the hidden width to such rows."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

HEAD, PER_KEY = 64, 4


class LlamaBlocks(nn.Module):
    """The decoder of a Llama between its embedding and its head.

    Args:
        width: of the hidden states.
        n_keys: heads of keys and values; there are four times as many of queries.
        n_hidden: units of the feed-forward part.
        n_blocks: blocks in a row.

    Source: transformers' ``LlamaConfig``; the sizes of Llama 3.2 with a billion weights, whose
    width is 2048, are 8 keys, 8192 hidden units and 16 blocks.
    """

    def __init__(self, width: int, n_keys: int, n_hidden: int, n_blocks: int = 2) -> None:
        super().__init__()
        transformers = importlib.import_module("transformers")
        config = transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=n_hidden,
            num_hidden_layers=n_blocks,
            num_attention_heads=PER_KEY * n_keys,
            num_key_value_heads=n_keys,
            head_dim=HEAD,
            vocab_size=1,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
        self.decoder = transformers.LlamaModel(config)
        self.decoder.embed_tokens.requires_grad_(False)  # of no use here

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, tokens, width) to the same, each token seeing those before it."""
        return self.decoder(inputs_embeds=x).last_hidden_state
