"""MiniLM learns the 45 classes of WordNet's glosses, with a few learned weights.

    python -m weightcast_lab.studies.evidence --minutes 60 --data wordnet=WORDNET
    python -m weightcast_lab.studies.adapting.on_glosses --table

The encoder's mean over tokens goes to the head. Glosses are parted by word: none of a word that is
tested or that chooses was trained on. 120 steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast_lab.data.glosses import N_CLASSES, Gloss, draw_glosses, read_glosses, split_by_word
from weightcast_lab.networks.pretrained.language import minilm
from weightcast_lab.studies.adapting import trained
from weightcast_lab.studies.adapting.methods import METHODS, Method
from weightcast_lab.studies.adapting.trained import (
    BATCH,
    Batch,
    RunConfig,
    Task,
    print_table,
    runs_task,
)
from weightcast_lab.studies.real.task import equal_lengths
from weightcast_lab.sweeps.trial import Place

GLOSSES_TOGETHER = 8
N_INPUTS, N_VALIDATION, N_TEST = 512, 2_000, 4_000


@dataclass(frozen=True)
class AdaptConfig(RunConfig):
    """One run, of 32 glosses a step."""

    methods: ClassVar[Mapping[str, Method]] = METHODS
    data: str = "wordnet"


class Classifier(trained.Classifier):
    """The mean of an encoder's states, and a linear head."""

    def __init__(self, encoder: nn.Module, seed: int) -> None:
        super().__init__(encoder, 384, N_CLASSES, seed)

    @override
    def features(self, *inputs: Tensor) -> Tensor:
        """The mean (n, 384) of padded tokens (n, length).

        The encoder is given glosses of like length together: more than half of a batch of drawn
        ones is padding.
        """
        tokens, mask = inputs
        lengths = mask.sum(1)
        order = lengths.argsort()
        found = []
        for part in order.split(len(order) if mask.all() else GLOSSES_TOGETHER):
            longest = int(lengths[part[-1]])
            kept = mask[part, :longest]
            states = self.encoder(input_ids=tokens[part, :longest], attention_mask=kept)
            weights = kept.unsqueeze(2) / lengths[part, None, None]
            found.append((states.last_hidden_state * weights).sum(1))
        return torch.cat(found)[order.argsort()]


@runs_task("adapt", AdaptConfig)
def task(config: AdaptConfig, place: Place, *, validation: bool = False) -> Task:
    """The glosses of a run."""
    data = place.data.get(config.data) if isinstance(place.data, dict) else place.data
    train, held, test = split_by_word(read_glosses(None if data is None else Path(data)))
    measured = draw_glosses(held, N_VALIDATION, 0) if validation else draw_glosses(test, N_TEST, 0)
    encoder, tokenizer = minilm()
    encode = Encoder(tokenizer)
    examples = encode.whole(draw_glosses(train, N_INPUTS, config.seed))
    drawn = draw_glosses(train, BATCH * config.steps, 1_000 + config.seed)
    return Task(
        dataset="WordNet glosses, 45 classes, parted by word",
        encoder=encoder,
        classify=lambda adapted: Classifier(adapted, config.seed),
        examples=[(tokens, labels) for (tokens, _), labels in examples],
        batches=encode.drawn(drawn),
        measured=encode.whole(measured),
    )


class Encoder:
    """Glosses as tokens, at most ``length`` of them."""

    def __init__(self, tokenizer: Any, length: int = 64) -> None:
        self._tokenizer, self._length = tokenizer, length

    def batches(self, glosses: Sequence[Gloss]) -> list[tuple[list[int], Tensor]]:
        """Batches of one length each, without padding, and which glosses they hold."""
        texts = [gloss.text for gloss in glosses]
        tokens = self._tokenizer(texts, truncation=True, max_length=self._length)["input_ids"]
        return equal_lengths(tokens, 1_024)

    def whole(self, glosses: Sequence[Gloss]) -> Iterator[Batch]:
        """The same with masks and labels."""
        labels = torch.tensor([gloss.label for gloss in glosses])
        for places, tokens in self.batches(glosses):
            yield (tokens, torch.ones_like(tokens)), labels[places]

    def drawn(self, glosses: Sequence[Gloss]) -> Iterator[Batch]:
        """Batches in the order of the glosses, padded."""
        for start in range(0, len(glosses), BATCH):
            part = glosses[start : start + BATCH]
            texts = [gloss.text for gloss in part]
            found = self._tokenizer(
                texts, truncation=True, max_length=self._length, padding=True, return_tensors="pt"
            )
            labels = torch.tensor([gloss.label for gloss in part])
            yield (found["input_ids"], found["attention_mask"]), labels


def main() -> None:
    """Print the rows as a table."""
    print_table(__doc__, METHODS, "results/evidence_adapt.ndjson")


if __name__ == "__main__":
    main()
