"""Transformers: a vision transformer for small images and a character GPT, of the same blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast_lab.networks.drawing import check_sizes, seeded


def vit(
    shape: Sequence[int] = (3, 32, 32),
    n_classes: int = 10,
    width: int = 192,
    depth: int = 6,
    heads: int = 4,
    patch: int = 4,
    *,
    seed: int | None = None,
) -> VisionTransformer:
    """A vision transformer: 64 patches of 4 x 4 pixels, 6 blocks, the mean over patches classified.

    Args:
        shape: channels, height and width of an image, whole patches high and wide.
        n_classes: outputs.
        width: numbers that stand for a patch; a multiple of ``heads``.
        depth: blocks.
        heads: of each block's attention.
        patch: height and width of a patch in pixels.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: a width that the heads do not divide, images that are not whole patches, or a
            size below 1.

    References: Dosovitskiy et al. 2021, *An image is worth 16x16 words*.
    """
    channels, height, columns = shape
    check_sizes(*shape, n_classes, width, depth, heads, patch)
    if height % patch or columns % patch:
        raise ValueError(
            f"images of {height} x {columns} pixels are not whole patches of {patch} x {patch}: "
            "choose another patch"
        )
    _check_heads(width, heads)
    n_patches = (height // patch) * (columns // patch)
    with seeded(seed):
        return VisionTransformer(channels, n_classes, width, depth, heads, patch, n_patches)


def gpt(
    n_characters: int,
    context: int = 128,
    width: int = 384,
    depth: int = 6,
    heads: int = 4,
    *,
    seed: int | None = None,
) -> GPT:
    """A character GPT: each character's successor from it and those before it, by 6 blocks.

    Args:
        n_characters: of the alphabet.
        context: characters that it sees at once, at most.
        width: numbers that stand for a character; a multiple of ``heads``.
        depth: blocks.
        heads: of each block's attention.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: a width that the heads do not divide, or a size below 1.

    References: Radford et al. 2019, *Language models are unsupervised multitask learners*.
    """
    check_sizes(n_characters, context, width, depth, heads)
    _check_heads(width, heads)
    with seeded(seed):
        return GPT(n_characters, context, width, depth, heads)


class VisionTransformer(nn.Module):
    """Images to logits through ``patches``, ``blocks``, ``norm`` and ``classifier``.

    Args:
        channels: of an image.
        n_classes: outputs.
        width: numbers that stand for a patch.
        depth: blocks.
        heads: of each block's attention.
        patch: height and width of a patch in pixels.
        n_patches: of an image.
    """

    def __init__(
        self,
        channels: int,
        n_classes: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        n_patches: int,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(n_patches, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, n_classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)  # (batch, n_patches, width)
        x = self.norm(self.blocks(x + self.positions))
        return self.classifier(x.mean(dim=1))


class GPT(nn.Module):
    """Characters to logits of their successors: ``characters``, ``blocks``, ``norm, classifier``.

    Args:
        n_characters: of the alphabet.
        context: characters that it sees at once, at most.
        width: numbers that stand for a character.
        depth: blocks.
        heads: of each block's attention.
    """

    def __init__(self, n_characters: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(n_characters, width)
        # As small as the positions: torch's own draw, 50 times larger, learns more slowly.
        nn.init.normal_(self.characters.weight, std=0.02)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_characters)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length) int64 to logits (batch, length, n_characters)."""
        context = len(self.positions)
        if x.shape[1] > context:
            raise ValueError(f"{x.shape[1]} characters are given, and the network sees {context}")
        x = self.characters(x) + self.positions[: x.shape[1]]
        return self.classifier(self.norm(self.blocks(x)))


class Block(nn.Module):
    """x + attention(norm1(x)), then the same with ``expand``, gelu and ``contract`` for attention.

    Args:
        width: numbers at each position.
        heads: of the attention.
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class Attention(nn.Module):
    """Scaled dot-product attention between the layers ``inputs`` and ``outputs``.

    Args:
        width: numbers at each position.
        heads: that share them.
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 3 * width)  # queries, keys and values
        self.outputs = nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        parts = self.inputs(x).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, width / heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.outputs(y.transpose(1, 2).flatten(2))


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width is {width}, which {heads} heads cannot share: take a multiple")
