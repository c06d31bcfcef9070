"""Scoring: the errors of whole recordings, from the log likelihoods of their frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from weightcast_lab.data.speech.corpus import Corpus, Recording
from weightcast_lab.data.speech.digits import PARTS
from weightcast_lab.data.speech.phones import FOLDED, PHONES, fold
from weightcast_lab.data.speech.viterbi import Bigram, viterbi

CHANGES = (0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0)
"""Scores of changing the phone, from which the best on validation recordings is taken."""


def by_recording(values: np.ndarray, recordings: Sequence[Recording]) -> list[np.ndarray]:
    """Cut what is known of all frames of a split, (n_frames, ...), into its recordings."""
    ends = np.cumsum([len(recording.labels) for recording in recordings])
    if ends[-1] != len(values):
        raise ValueError(f"{len(values)} frames were scored, the recordings have {ends[-1]}")
    return np.split(values, ends[:-1])


def digit_error(recordings: Sequence[Recording], log_likelihoods: np.ndarray) -> float:
    """The share of recordings taken for another digit, in percent.

    A digit's path goes through its parts from first to last and stays one frame or more in each;
    the digit with the best path is the answer.

    Args:
        recordings: spoken digits.
        log_likelihoods: (n_frames, 10 PARTS) of all their frames, in order.

    Raises:
        ValueError: another number of frames, or a recording with fewer frames than parts.
    """
    n_states = log_likelihoods.shape[1]
    part = np.arange(n_states) % PARTS
    transition = np.full((n_states, n_states), -np.inf)
    np.fill_diagonal(transition, 0.0)
    onward = np.flatnonzero(part < PARTS - 1)
    transition[onward, onward + 1] = 0.0
    initial = np.where(part == 0, 0.0, -np.inf)
    final = np.where(part == PARTS - 1, 0.0, -np.inf)
    wrong = 0
    pairs = zip(recordings, by_recording(log_likelihoods, recordings), strict=True)
    for recording, scores in pairs:
        path, _ = viterbi(scores, transition, initial, final)
        wrong += int(path[-1]) // PARTS != recording.transcript[0]
    return 100 * wrong / len(recordings)


def phone_error(
    recordings: Sequence[Recording], log_likelihoods: np.ndarray, bigram: Bigram, change: float
) -> float:
    """Edits that turn what was decoded into what was said, in percent of what was said.

    Both are folded to the 39 classes first. The error may exceed 100 %.

    Args:
        recordings: with transcripts of the 61 phones.
        log_likelihoods: (n_frames, 61) of all their frames, in order.
        bigram: of the 61 phones.
        change: score of changing the phone.

    References: Lee and Hon 1989.
    """
    edits = said = 0
    pairs = zip(recordings, by_recording(log_likelihoods, recordings), strict=True)
    for recording, scores in pairs:
        truth = fold(recording.transcript)
        edits += edit_distance(fold(bigram.decode(scores, change)), truth)
        said += len(truth)
    return 100 * edits / said


def choose_change(corpus: Corpus, log_likelihoods: np.ndarray, bigram: Bigram) -> float:
    """The score of changing the phone that gives the least error on the validation recordings.

    Args:
        corpus: with validation recordings.
        log_likelihoods: (n_frames, 61) of the validation frames.
        bigram: of the 61 phones.
    """
    errors = [phone_error(corpus.validation, log_likelihoods, bigram, c) for c in CHANGES]
    return CHANGES[int(np.argmin(errors))]


def folded_frame_error(labels: np.ndarray, answers: np.ndarray) -> float:
    """Wrong answers among the 39 classes, in percent of the frames that are no glottal stop.

    Args:
        labels: (n_frames,) the phones spoken.
        answers: (n_frames,) the phones recognised.
    """
    names = list(dict.fromkeys(FOLDED.values()))
    place = np.array([names.index(FOLDED[phone]) for phone in PHONES])
    counted = labels != PHONES.index("q")
    wrong = place[labels[counted]] != place[answers[counted]]
    return 100 * float(wrong.mean()) if len(wrong) else 0.0


def edit_distance(ours: Iterable[Any], theirs: Sequence[Any]) -> int:
    """The least number of insertions, deletions and substitutions (Levenshtein)."""
    previous = list(range(len(theirs) + 1))
    for i, mine in enumerate(ours, start=1):
        current = [i]
        for j, other in enumerate(theirs, start=1):
            change = previous[j - 1] + (mine != other)
            current.append(min(change, previous[j] + 1, current[-1] + 1))
        previous = current
    return previous[-1]
