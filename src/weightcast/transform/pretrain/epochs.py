"""Progress of a pre-training: a bar on a terminal, a line per epoch in a log."""

from __future__ import annotations

from weightcast.inputs import progress


class Progress(progress.Progress):
    """What is shown on stderr while layers are trained.

    Args:
        n_layers: to be trained.
        epochs: of each.
        show: False shows nothing.
    """

    def __init__(self, n_layers: int, epochs: int, *, show: bool) -> None:
        super().__init__("pre-training", n_layers * epochs, show=show)
        self.epochs = epochs

    def skip(self, name: str, epochs: int) -> None:
        """Say that a layer has some epochs behind it already."""
        self.step(epochs)
        self.say(f"{name}: {epochs} of {self.epochs} epochs were done before")

    def epoch(self, name: str, epoch: int, loss: float) -> None:
        """Say how far a layer is."""
        self.say(f"{name}: epoch {epoch} of {self.epochs}, loss {loss:.4f}")
