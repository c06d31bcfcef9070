"""Corpus: recordings as labelled frames, split once and for all; and frames with their context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from weightcast_lab.data.images import Images, Split


@dataclass(frozen=True)
class Recording:
    """One utterance of one speaker.

    Args:
        name: of the file, without its folder or suffix.
        speaker: who speaks.
        frames: (n_frames, n_features) float32.
        labels: (n_frames,) int64, the class of each frame.
        transcript: what is said, in order: classes, or for digits the digit.
    """

    name: str
    speaker: str
    frames: np.ndarray
    labels: np.ndarray
    transcript: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Recordings to train on, to choose with and to test on.

    Args:
        name: what a row or a table calls the data.
        classes: what a frame's label stands for.
        train: recordings.
        validation: training recordings that are set aside; may be empty.
        test: measured once, at the end.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Recording, ...]
    validation: tuple[Recording, ...]
    test: tuple[Recording, ...]

    def log_priors(self) -> np.ndarray:
        """Log share of each class among the training frames, each counted once more."""
        labels = np.concatenate([recording.labels for recording in self.train])
        counts = np.bincount(labels, minlength=len(self.classes)) + 1
        return np.log(counts / counts.sum())


def to_images(corpus: Corpus, context: int) -> Images:
    """Frames with their context as images of one channel, 2 context + 1 high, features wide.

    Every feature is shifted and scaled so that over the training frames it has mean 0 and
    variance 1.

    Args:
        corpus: recordings; the frames of a split keep their order.
        context: frames on each side.

    Raises:
        ValueError: a negative context, or a feature that is the same in all training frames.
    """
    together = np.concatenate([recording.frames for recording in corpus.train])
    mean = together.mean(axis=0, dtype=np.float64)
    deviation = together.std(axis=0, dtype=np.float64)
    if not (deviation > 0).all():
        feature = int((deviation > 0).argmin())
        raise ValueError(
            f"feature {feature} is {mean[feature]:g} in all {len(together)} training frames of "
            f"{corpus.name}: the recordings are silent, or too few"
        )

    def split(recordings: Sequence[Recording]) -> Split:
        scaled = ((recording.frames - mean) / deviation for recording in recordings)
        x = np.concatenate([stack_context(f.astype(np.float32), context) for f in scaled])
        y = np.concatenate([recording.labels for recording in recordings])
        return torch.from_numpy(x[:, None]), torch.from_numpy(y)

    return Images(
        name=corpus.name,
        train=split(corpus.train),
        validation=split(corpus.validation) if corpus.validation else None,
        test=split(corpus.test),
        n_classes=len(corpus.classes),
    )


def stack_context(frames: np.ndarray, context: int) -> np.ndarray:
    """Each frame between its neighbours; the first and the last frame stand in beyond the ends.

    Args:
        frames: (n_frames, n_features) of one recording.
        context: frames on each side, 0 or more.

    Returns:
        (n_frames, 2 context + 1, n_features), of the same type.

    Raises:
        ValueError: a negative context.
    """
    if context < 0:
        raise ValueError(f"context is {context}: it must be 0 or more frames on each side")
    around = np.arange(len(frames))[:, None] + np.arange(-context, context + 1)
    return frames[around.clip(0, len(frames) - 1)]


def evenly_spaced(n: int, at_most: int | None) -> np.ndarray:
    """At most so many of 0 ... n - 1, evenly spaced from the first to the last, (k,) int64."""
    return np.linspace(0, n - 1, n if at_most is None else min(n, at_most)).round().astype(int)


def partial_name(name: str, max_recordings: int | None) -> str:
    """The corpus's name, and that it is not the whole of it where that may be so."""
    if max_recordings is None:
        return name
    return f"{name}, at most {max_recordings} recordings of a split"


def name_some(names: Sequence[str], at_most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f", and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
