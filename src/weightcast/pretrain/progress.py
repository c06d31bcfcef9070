"""Progress of a pre-training: a bar on a terminal, a line per epoch in a log."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """What is shown on stderr while layers are trained.

    The bar needs tqdm; without it a terminal gets the log's lines.

    Args:
        n_layers: to be trained.
        epochs: of each.
        show: False shows nothing.
    """

    def __init__(self, n_layers: int, epochs: int, *, show: bool) -> None:
        self.n_layers, self.epochs, self.show = n_layers, epochs, show
        self.layer = 0
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if self.show and sys.stderr.isatty():
            self.bar = _make_bar(self.n_layers * self.epochs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def skip(self, name: str, epochs: int) -> None:
        """Say that a layer has some epochs behind it already."""
        self.step(epochs)
        self._say(f"{name}: {epochs} of {self.epochs} epochs were done before")

    def step(self, share: float) -> None:
        """Move the bar by a share of an epoch."""
        if self.bar is not None:
            self.bar.update(min(share, self.bar.total - self.bar.n))  # shares are rounded

    def epoch(self, name: str, epoch: int, loss: float) -> None:
        """Say how far a layer is."""
        self._say(f"{name}: epoch {epoch} of {self.epochs}, loss {loss:.4f}")

    def _say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.show:
            print(f"pre-training {text}", file=sys.stderr, flush=True)


def _make_bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(
        desc="pre-training",
        total=total,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
    )
