"""WordNet's glosses: short definitions of 117,659 meanings in 45 classes, for text networks.

From Debian's package `wordnet-base` (Princeton's licence). A line of `data.noun` and its
three neighbours has the meaning's class as second field and its gloss after the bar (wndb(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weightcast_lab.packages import Package

WORDNET = Package(
    "wordnet-base",
    "1:3.0-37",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    debian=True,
)
N_CLASSES = 45
N_TEST = 20_000
"""Glosses that are never used for calibration."""


@dataclass(frozen=True)
class Gloss:
    """A definition, with examples as WordNet has them, its class, 0 to 44, and its first word."""

    text: str
    label: int
    word: str = ""


def wordnet_folder() -> Path:
    """Where WordNet's files are: the system's own, else those of the package in the cache."""
    system = Path("/usr/share/wordnet")
    return system if system.is_dir() else WORDNET.fetch() / "usr" / "share" / "wordnet"


def read_glosses(folder: Path | None = None) -> list[Gloss]:
    """Read all glosses in the files' order, each text once.

    Args:
        folder: holds `data.adj`, `data.adv`, `data.noun`, `data.verb`; None finds WordNet's own.
    """
    folder = folder or wordnet_folder()
    found: dict[str, Gloss] = {}
    for part in ("adj", "adv", "noun", "verb"):
        for line in (folder / f"data.{part}").read_text("utf-8", "replace").splitlines():
            fields, bar, text = line.partition(" | ")
            if bar and not line.startswith(" "):  # the licence is indented
                _, label, _, _, word, *_ = fields.split()
                gloss = Gloss(text.strip(), int(label), word.lower())
                found.setdefault(gloss.text, gloss)
    return list(found.values())


def split_glosses(glosses: Sequence[Gloss]) -> tuple[list[Gloss], list[Gloss]]:
    """Part them into those for calibration and ``N_TEST`` others, always the same ones."""
    order = torch.randperm(len(glosses), generator=torch.Generator().manual_seed(0)).tolist()
    return [glosses[i] for i in order[N_TEST:]], [glosses[i] for i in order[:N_TEST]]


def split_by_word(glosses: Sequence[Gloss]) -> tuple[list[Gloss], list[Gloss], list[Gloss]]:
    """Part them for training, validation and test, by 80, 5 and 15 % of the words explained."""
    words = sorted({gloss.word for gloss in glosses})
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    place = {words[i]: n / len(words) for n, i in enumerate(order)}
    ends = ((0.0, 0.8), (0.8, 0.85), (0.85, 1.0))
    train, held, test = ([g for g in glosses if a <= place[g.word] < b] for a, b in ends)
    return train, held, test


def draw_glosses(glosses: Sequence[Gloss], n: int, seed: int) -> list[Gloss]:
    """Draw n different ones; one seed gives one draw."""
    if n > len(glosses):
        raise ValueError(f"{n} glosses of {len(glosses)}: draw at most {len(glosses)}")
    order = torch.randperm(len(glosses), generator=torch.Generator().manual_seed(seed))
    return [glosses[i] for i in order[:n].tolist()]


def token_windows(
    glosses: Sequence[Gloss], encode: Callable[[str], list[int]], n: int, length: int, seed: int
) -> Tensor:
    """Draw text for a language model: glosses in random order, one a line, cut into windows.

    Args:
        glosses: to draw from.
        encode: a text's tokens.
        n: windows.
        length: tokens of each.
        seed: of the order.

    Returns:
        (n, length) int64.
    """
    tokens: list[int] = []
    for gloss in draw_glosses(glosses, min(len(glosses), n * length), seed):
        tokens += encode(gloss.text + "\n")
        if len(tokens) >= n * length:
            return torch.tensor(tokens[: n * length]).view(n, length)
    raise ValueError(
        f"{len(glosses)} glosses hold {len(tokens)} tokens, not {n * length}: ask for fewer windows"
    )
