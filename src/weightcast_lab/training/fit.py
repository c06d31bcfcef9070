"""fit: train a network with pytorch-lightning, and measure it once on the test split."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import nn

from weightcast.integrations.lightning import RandomState, SafetensorsCheckpointIO, seeded
from weightcast_lab.data.batches import Batches
from weightcast_lab.data.examples import Examples
from weightcast_lab.data.images import Images
from weightcast_lab.data.text import Text
from weightcast_lab.settings import TrainingSettings
from weightcast_lab.training.callbacks import (
    BEST,
    LAST,
    Interrupted,
    KeepCheckpoints,
    Measure,
    StopOnInterrupt,
    Stopwatch,
    TrainingProgress,
    TrainingStop,
)
from weightcast_lab.training.module import Classifier, Score, measure


@dataclass(frozen=True)
class FitResult:
    """What a training run gave.

    Args:
        test: error and loss on the test split.
        validation: the same on the validation split after the last epoch, or None.
        train_loss: mean loss of the last epoch's steps.
        train_seconds: wall time of the training steps; measuring and saving are left out.
        epochs: passes over the training examples.
        steps: steps of the optimiser.
        curve: what was measured after each epoch, as metrics.csv has it.
    """

    test: Score
    validation: Score | None
    train_loss: float
    train_seconds: float
    epochs: int
    steps: int
    curve: tuple[dict[str, float], ...] = ()

    @property
    def test_error(self) -> float:
        """Wrong answers on the test split, in percent."""
        return self.test.error

    @property
    def validation_error(self) -> float | None:
        """Wrong answers on the validation split, in percent, or None."""
        return None if self.validation is None else self.validation.error

    def metrics(self) -> dict[str, float | None]:
        """What result rows hold of it."""
        aside = self.validation
        return {
            "test_error": self.test.error,
            "test_loss": self.test.loss,
            "validation_error": None if aside is None else aside.error,
            "validation_loss": None if aside is None else aside.loss,
            "train_loss": self.train_loss,
            "train_seconds": self.train_seconds,
        }


def fit(
    model: nn.Module,
    data: Images | Text | Examples,
    settings: TrainingSettings,
    *,
    seed: int = 0,
    progress: bool = True,
    label: str = "training",
    folder: Path | None = None,
    resume: bool = False,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    workers: int = 0,
    processes: int = 1,
) -> FitResult:
    """Train a network in place and measure it on the test split once, at the end.

    Args:
        model: dense or predicted: images to logits (batch, n_classes), or characters (batch,
            length) to logits (batch, length, n_classes).
        data: what to learn; the validation split serves for choosing only.
        settings: how to train.
        seed: of the order of the examples in each epoch, and of what the model draws (dropout).
        progress: whether to show a bar on a terminal, a line per epoch elsewhere, on stderr.
        label: what to call the run there.
        folder: for checkpoints (last.ckpt, best.ckpt) and logs (metrics.csv, tensorboard/); None
            writes nothing.
        resume: go on from the folder's last.ckpt rather than start. The result is that of the run
            which was never stopped, to the last bit.
        accelerator: cpu, gpu, or auto: a GPU where there is one.
        workers: processes that put batches together beside the training; the result is the same.
        processes: how many train together, each on its share of every batch. More than one are
            started as pytorch-lightning does: by running the program again, up to this call.

    Raises:
        ValueError: a loss that is NaN or infinite; no checkpoint to resume from, or one by another
            number of processes; a number of workers below 0 or of processes below 1.
        Interrupted: a KeyboardInterrupt: Ctrl-C. The folder's last.ckpt, if there is a folder,
            then holds the state to resume from.
    """
    checkpoint = _find_checkpoint(folder) if resume else None
    if settings.test_weights == "best" and (folder is None or data.validation is None):
        raise ValueError("test_weights 'best' needs a validation split and a folder")
    _check_processes(workers, processes)
    home = next(model.parameters()).device
    stopwatch, measured = Stopwatch(), Measure(data.validation, data.criterion, folder)
    interrupt = StopOnInterrupt(folder)
    shown = [TrainingProgress(measured, label)] if progress else []
    callbacks = [stopwatch, measured, *shown, interrupt]
    if folder is not None:
        callbacks += [RandomState(), KeepCheckpoints(folder, measured)]
    with _quiet_lightning(), interrupt.listening(), _process_group(processes):
        trainer = _make_trainer(settings.epochs, callbacks, folder, accelerator, processes)
        device = trainer.strategy.root_device
        # Workers cannot reach into a GPU's memory: Lightning moves their batches there.
        train = data.train if workers else data.to(device).train
        data = data.to(device)
        share = {"rank": trainer.global_rank, "processes": processes}
        batches = Batches(train, settings.batch_size, seed, workers=workers, **share)
        measured.validation = data.validation
        classifier = Classifier(model.train(), settings, batches.n_batches)
        with seeded(seed, trainer.global_rank, device):
            _run(trainer, classifier, batches, checkpoint)
    if settings.test_weights == "best" and folder is not None:
        state = SafetensorsCheckpointIO().load_checkpoint(folder / BEST)
        classifier.load_state_dict(state["state_dict"])
    test = measure(model.to(device), data.test)
    model.to(home)
    epochs, seconds = settings.epochs, stopwatch.seconds
    steps = epochs * batches.n_batches
    curve = tuple(measured.epochs)
    return FitResult(test, measured.score, measured.train_loss, seconds, epochs, steps, curve)


def _check_processes(workers: int, processes: int) -> None:
    if workers < 0 or processes < 1:
        raise ValueError(
            f"workers is {workers} and processes is {processes}: take 0 or more, and 1 or more"
        )


def _find_checkpoint(folder: Path | None) -> Path:
    """The checkpoint that a run goes on from."""
    if folder is None or not (folder / LAST).is_file():
        raise ValueError(f"there is no {LAST} in {folder}: start the run without resuming")
    return folder / LAST


def _run(
    trainer: pl.Trainer, classifier: Classifier, batches: Batches, checkpoint: Path | None
) -> None:
    try:
        trainer.fit(classifier, batches, ckpt_path=checkpoint, weights_only=True)
    except TrainingStop as stop:
        raise Interrupted(str(stop)) from None
    except SystemExit as stop:  # Lightning's answer to a second Ctrl-C
        raise KeyboardInterrupt from stop


def _make_trainer(
    epochs: int,
    callbacks: Sequence[pl.Callback],
    folder: Path | None,
    accelerator: str,
    processes: int,
) -> pl.Trainer:
    """A Trainer that does nothing but train: what else is needed comes as a callback."""
    loggers: list[Logger] = []
    if folder is not None:
        # A resumed run goes on in TensorBoard's curves.
        loggers = [TensorBoardLogger(folder, name="tensorboard", version="")]
    return pl.Trainer(
        accelerator=accelerator,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        plugins=[SafetensorsCheckpointIO()],
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=loggers,
        default_root_dir=folder,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


@contextmanager
def _process_group(processes: int) -> Iterator[None]:
    """End the processes' group with the training that they share, if it began with it."""
    distributed = processes > 1 and not torch.distributed.is_initialized()
    try:
        yield
        if distributed and torch.distributed.get_backend() == "gloo":
            # Python must not end while gloo's threads still free their last messages: they abort.
            torch.distributed.monitored_barrier()
    finally:
        if distributed and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's announcements, advertisements and advice on other hardware."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "GPU available but not used", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
