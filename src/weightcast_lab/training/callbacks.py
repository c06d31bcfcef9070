"""What happens around the steps: time, errors, progress, checkpoints, and the end by Ctrl-C."""

from __future__ import annotations

import csv
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from tqdm import tqdm

from weightcast.files import atomic_write, remove_leftovers
from weightcast_lab.data.images import Split
from weightcast_lab.training.module import Classifier, Score, measure

LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; ``str()`` says where."""


class TrainingStop(Exception):  # noqa: N818 - as StopIteration, it is no error
    """How a callback ends ``Trainer.fit``, which answers a KeyboardInterrupt with sys.exit."""


class Stopwatch(pl.Callback):
    """Seconds spent in training steps, measuring and saving left out; goes on when resumed."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._seconds + running

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._seconds, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._seconds = state_dict["seconds"]


class Measure(pl.Callback):
    """Log loss, learning rate and the score on the validation split after every epoch.

    Args:
        validation: None where nothing was set aside.
        criterion: which entry of a score says which weights are better.
        folder: of the run, whose metrics.csv gets a line per epoch; None writes no file.
    """

    def __init__(
        self,
        validation: Split | None,
        criterion: Literal["error", "loss"],
        folder: Path | None = None,
    ) -> None:
        self.validation, self.criterion = validation, criterion
        self.folder = folder
        self.epochs: list[dict[str, float]] = []

    @property
    def train_loss(self) -> float:
        """Of the last epoch."""
        return self.epochs[-1]["train_loss"] if self.epochs else math.nan

    @property
    def score(self) -> Score | None:
        """After the last epoch; None without a validation split."""
        last = self.epochs[-1] if self.epochs else {}
        if "validation_error" not in last:
            return None
        return Score(last["validation_error"], last["validation_loss"])

    @property
    def value(self) -> float | None:
        """What the criterion says of the last epoch's weights."""
        return None if self.score is None else getattr(self.score, self.criterion)

    def describe(self) -> str:
        """The last epoch in words."""
        text = f"loss {self.train_loss:.4f}"
        if self.score is None:
            return text
        if self.criterion == "loss":
            return f"{text}, validation loss {self.score.loss:.4f} nats"
        return f"{text}, validation error {self.score.error:.2f} %"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log."""
        classifier, epoch = cast(Classifier, pl_module), trainer.current_epoch + 1
        metrics = {"train_loss": classifier.take_loss()}
        metrics["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        if self.validation is not None:
            score = measure(classifier.model, self.validation)
            metrics |= {"validation_error": score.error, "validation_loss": score.loss}
        step = epoch * classifier.n_batches
        self.epochs.append({"epoch": epoch, "step": step} | metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": epoch}, step=step)
        if self.folder is not None and trainer.is_global_zero:
            self._write(self.folder / METRICS)

    def _write(self, path: Path) -> None:
        """All epochs anew, so that the file is the same whether or not the run was resumed."""
        with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            lines = csv.DictWriter(file, self.epochs[0].keys(), lineterminator="\n")
            lines.writeheader()
            lines.writerows(self.epochs)

    def state_dict(self) -> dict[str, Any]:
        """What was measured after every epoch so far."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.epochs = list(state_dict["epochs"])


class TrainingProgress(pl.Callback):
    """A bar over all steps on a terminal; a line per epoch in a log."""

    def __init__(self, measure: Measure, label: str) -> None:
        self.measure = measure
        self.label = label
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, on a terminal."""
        if sys.stderr.isatty():
            per_epoch = trainer.num_training_batches
            done = trainer.current_epoch * per_epoch
            total = (trainer.max_epochs or 0) * per_epoch
            self.bar = tqdm(
                desc=self.label,
                total=int(total),
                initial=int(done),
                bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
            )

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how far it went."""
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        text = f"{epoch}, {self.measure.describe()}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class KeepCheckpoints(Checkpoint):
    """Write last.ckpt after every epoch, best.ckpt whenever what is measured falls."""

    def __init__(self, folder: Path, measure: Measure) -> None:
        self.folder = folder
        self.measure = measure
        self.best = math.inf

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Clear away what a killed run was writing: the folder is this run's now."""
        if trainer.is_global_zero:
            for name in (LAST, BEST, METRICS):
                remove_leftovers(self.folder / name)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is due."""
        value = self.measure.value
        if value is not None and value < self.best:
            self.best = value
            trainer.save_checkpoint(self.folder / BEST)
        trainer.save_checkpoint(self.folder / LAST)

    def state_dict(self) -> dict[str, Any]:
        """The smallest value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = state_dict["best"]


class StopOnInterrupt(pl.Callback):
    """Ctrl-C ends training after the step at hand, with a checkpoint if there is a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT; a second one is Python's own KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        previous = signal.getsignal(signal.SIGINT)

        def request(*_: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGINT, previous)

        signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop inside an epoch; at its last step the epoch is completed first."""
        if self._is_requested(trainer) and not trainer.is_last_batch:
            if self.folder is not None:
                trainer.save_checkpoint(self.folder / LAST)
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between epochs, where the checkpoint is written already."""
        if self._is_requested(trainer) and trainer.current_epoch > 0:
            self._stop(trainer)

    def _is_requested(self, trainer: pl.Trainer) -> bool:
        """Whether any of the processes was asked to stop: they stop at the same step."""
        return trainer.strategy.reduce_boolean_decision(self.requested, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        raise TrainingStop(f"stopped in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")
