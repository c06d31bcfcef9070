"""An LSTM language model."""

from __future__ import annotations

from torch import Tensor, nn

from weightcast_lab.networks.drawing import check_sizes, seeded


def lstm(
    n_characters: int, width: int = 256, depth: int = 2, *, seed: int | None = None
) -> LSTMLanguageModel:
    """A character LSTM: each character's successor from it and what was kept of those before it.

    Args:
        n_characters: of the alphabet.
        width: of the embedding and of each layer's state.
        depth: layers.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: a size below 1.
    """
    check_sizes(n_characters, width, depth)
    with seeded(seed):
        return LSTMLanguageModel(n_characters, width, depth)


class LSTMLanguageModel(nn.Module):
    """Characters to logits of the next ones, by ``characters``, ``lstm`` and ``classifier``.

    Args:
        n_characters: of the alphabet.
        width: of the embedding and of each layer's state.
        depth: layers.
    """

    def __init__(self, n_characters: int, width: int, depth: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(n_characters, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.classifier = nn.Linear(width, n_characters)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length) int64 to logits (batch, length, n_characters)."""
        states, _ = self.lstm(self.characters(x))  # (batch, length, width)
        return self.classifier(states)
