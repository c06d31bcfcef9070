"""A network that others trained, what it is compressed on, and what tells how good it still is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Metrics = dict[str, float]


class Task(ABC):
    """One network.

    Attributes:
        name: in rows.
        dataset: what it is measured on.
        shows: the metric in a sentence, and what it cannot show.
        model: dense, in evaluation mode.
        modules: names of those whose matrices are compressed.
    """

    name: str
    dataset: str
    shows: str
    model: nn.Module
    modules: list[str]

    @abstractmethod
    def calibration(self, draw: int) -> list[Tensor]:
        """Batches for one draw: nothing that ``evaluate`` measures is among them."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> Metrics:
        """How the network does: test_error in percent, and what else there is; lower is better."""

    def validate(self, model: nn.Module) -> Metrics:
        """The same on other data, to choose by; NotImplementedError for a task without."""
        raise NotImplementedError(f"{self.name} has no data to choose by")


def equal_lengths(sequences: list[list[int]], most: int) -> list[tuple[list[int], Tensor]]:
    """Batches without padding: sequences of one length, ``most`` tokens a batch or one sequence.

    Returns:
        For each batch the places of its sequences, and their tokens (n, length).
    """
    by_length: dict[int, list[int]] = {}
    for place, tokens in enumerate(sequences):
        by_length.setdefault(len(tokens), []).append(place)
    batches = []
    for length, places in sorted(by_length.items()):
        n = max(1, most // length)
        for start in range(0, len(places), n):
            part = places[start : start + n]
            batches.append((part, torch.tensor([sequences[place] for place in part])))
    return batches
