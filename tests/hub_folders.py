"""Tiny networks as the Hub's folders have them, and data for them: real text, random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

ROOT = Path(__file__).parents[1]
PAGE, SETTINGS = ROOT / "docs" / "architecture.md", ROOT / "pyproject.toml"
SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.2,  # as random features, of which a head learns something
}  # fmt: skip


def tokenizer(folder: Path) -> int:
    """Save a tokenizer of some 300 words, learned from a page; how many."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]"]
    made.train([str(PAGE)], trainers.WordLevelTrainer(vocab_size=300, special_tokens=special))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder)
    return len(fast)


def bert(folder: Path, **options: Any) -> Path:
    """An encoder, without a head; with ``num_labels`` a classifier."""
    config = BertConfig(
        vocab_size=tokenizer(folder), max_position_embeddings=64, **SMALL, **options
    )
    torch.manual_seed(0)
    kind = BertForSequenceClassification if options else BertModel
    kind(config).save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    """A language model whose tokenizer's padding it does not know."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer(folder),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def vit(folder: Path) -> Path:
    """An encoder of images, without a head."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=8, patch_size=4, **SMALL)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def lines_of_text(folder: Path) -> Path:
    """Lines of this project's pages and settings, labelled by name; a third is for testing."""
    rows = [
        {"text": line.strip(), "label": label}
        for label, file in (("page", PAGE), ("settings", SETTINGS))
        for line in file.read_text().splitlines()
        if len(line.split()) > 3
    ]
    folder.mkdir()
    for name, own in (("test", rows[::3]), ("train", [*rows[1::3], *rows[2::3]])):
        text = "\n".join(json.dumps(row) for row in own)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def images(folder: Path, n: int = 120) -> Path:
    """Handwritten digits, in grey, a folder for each class, and no test split."""
    data: Any = load_digits()
    for number in range(n):
        place = folder / "train" / str(data.target[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (data.images[number] * 15).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder
