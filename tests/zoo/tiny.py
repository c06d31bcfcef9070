"""Tiny configs of any transformer, and inputs for the models that are made of them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

import weightcast as wc
from weightcast.layers import view
from weightcast.plan.eligibility import convertible_layers

LENGTH = 12
"""Of example texts, in tokens."""

SIZES: dict[str, int] = {
    # Layers.
    r"(depths|num_blocks|block_sizes)": 1,
    r"(n_layers?|depth|.*_depth|num_.*(layers|blocks)|(en|de)coder_layers|.*_n_layers?)": 2,
    # Heads, and as many or fewer keys and values.
    r"(num_(key_value|kv)_heads|n_kv_heads|num_global_key_value_heads)": 2,
    r"(n_heads?|num_heads|num_.*_heads|.*_attention_heads|.*_num_heads|.*_heads)": 4,
    r"(head_dim|.*_head_dim|d_kv|attention_head_size|head_size|key_value_proj_dim)": 8,
    # Widths.
    r"(hidden_size|d_model|n_embd|embed_dim|embedding_size|dim|hidden_dim|embed_dims?)": 32,
    r"(word_embed_proj_dim|projection_dim|conv_dim|codebook_dim|pooler_hidden_size)": 32,
    r"(hidden_sizes|embed_dims|neck_hidden_sizes|conv_channels|stem_channels|squeeze)": 32,
    r"(emb_dim|.*_hidden_size|.*_hidden_dim|state_size|lru_width|attention_hidden_size)": 32,
    r"(intermediate_size|.*_ffn_dim|d_ff|ffn_dim|n_inner|d_inner|mlp_dim|dff|ffn_hidden_size)": 64,
    r"(.*_intermediate_size|.*intermediate_dim|mlp_hidden_size)": 64,
    # Tokens, pixels, experts.
    r"(vocab_size|.*_vocab_size|n_tokens|num_embeddings)": 99,
    r"(max_position_embeddings|n_positions|n_ctx|max_.*_positions|max_seq_len)": 128,
    r"(image_size|img_size)": 32,
    r"patch_size": 8,
    r"sr_ratios": 2,
    r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)": 4,
    r"(num_experts_per_tok|num_experts_per_token|moe_k|moe_top_k|top_k)": 2,
    r"(n_group|topk_group|first_k_dense_replace|n_shared_experts|num_shared_experts)": 1,
    r"(rotary_dim|rope_dim)": 8,
    r"(.*_token_id|.*_token_index)": 2,
    r"(q_lora_rank|kv_lora_rank|qk_nope_head_dim|qk_rope_head_dim|v_head_dim)": 8,
}
"""What a field's name says it counts, as an expression, and a size for it; the first one counts."""

EXCEPTIONS: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": 99, "pad_token_id": 1, "mask_token_id": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "patch_size": 4,
    },
    "swinv2": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "patch_size": 4,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
}
"""Fields of configs that must be set together, by model type."""


def tiny(kind: type[PretrainedConfig], **fields: Any) -> PretrainedConfig:
    """A config of this class with two narrow layers.

    Args:
        kind: the class.
        fields: to set whatever their names say.
    """
    default = kind()
    changed = {
        name: _smaller(name, value)
        for name, value in _fields(default).items()
        if _smaller(name, value) != value
    }
    for name in getattr(kind, "sub_configs", {}):
        part = getattr(default, name, None)
        if isinstance(part, PretrainedConfig):
            changed[name] = tiny(type(part)).to_dict()
    changed |= EXCEPTIONS.get(kind.model_type, {})
    return kind(**{**changed, **fields})


def build(name: str, *, device: str = "cpu") -> nn.Module:
    """The base model of a type, tiny, with random weights, in evaluation mode.

    Args:
        name: of the type, as transformers has it.
        device: where its weights are.
    """
    config = tiny(CONFIG_MAPPING[name])
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return base_class(type(config))(config).eval()


def base_class(kind: type[PretrainedConfig]) -> type[nn.Module]:
    """The base model of configs of this class."""
    found = MODEL_MAPPING[kind]
    return found[0] if isinstance(found, (tuple, list)) else found


def example_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs that a tiny model takes: text, an image, or sound, as its config says."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    name = model.main_input_name
    if name == "pixel_values":
        size = getattr(config, "image_size", 32)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        shape = (2, getattr(config, "num_channels", 3), height, width)
        return {name: torch.randn(shape, generator=generator)}
    if name == "input_values":
        return {name: torch.randn(2, 2000, generator=generator)}
    n_tokens = getattr(config.get_text_config(), "vocab_size", 99)
    tokens = torch.randint(3, n_tokens, (2, LENGTH), generator=generator)
    inputs = {"input_ids": tokens}
    if name == "input_features":
        shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
        inputs = {name: torch.randn(shape, generator=generator)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens.flip(1)
    return inputs


def plan_of(model: nn.Module, rule: wc.Rule) -> wc.Plan:
    """The rule for every layer that it leaves at least one atom."""
    sizes = {name: view(layer).sizes[0] for name, layer in convertible_layers(model).items()}
    too_small = [name for name, size in sizes.items() if rule.fraction * size < 1]
    return wc.Plan({"*": rule, **dict.fromkeys(too_small)})


def _fields(config: PretrainedConfig) -> dict[str, Any]:
    """Fields that the class itself declares, with their values."""
    if dataclasses.is_dataclass(config):
        return {f.name: getattr(config, f.name, None) for f in dataclasses.fields(config)}
    return dict(vars(config))


def _smaller(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):  # one entry for each stage
        return type(value)(_smaller(name, entry) for entry in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    for pattern, size in SIZES.items():
        if re.fullmatch(pattern, name):
            return min(size, value)
    return value
