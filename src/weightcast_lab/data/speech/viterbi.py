"""Viterbi: the best path through states, and the bigram model that scores its transitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


def viterbi(
    scores: np.ndarray, transition: np.ndarray, initial: np.ndarray, final: np.ndarray
) -> tuple[np.ndarray, float]:
    """argmax_s initial[s_1] + sum_t scores[t, s_t] + sum_t transition[s_t, s_t+1] + final[s_T].

    Args:
        scores: (n_frames, n_states), log likelihoods.
        transition: (n_states, n_states), [i, j] from state i to j; -inf forbids.
        initial: (n_states,) of starting in a state; -inf forbids.
        final: (n_states,) of ending in a state; -inf forbids.

    Returns:
        The states (n_frames,) int64, and their score.

    Raises:
        ValueError: no frames, or no path that is allowed.
    """
    if not len(scores):
        raise ValueError("there are no frames to decode")
    best = initial + scores[0]
    came_from = np.empty(scores.shape, dtype=np.int64)
    for t in range(1, len(scores)):
        arriving = best[:, None] + transition  # (from, to)
        came_from[t] = arriving.argmax(axis=0)
        best = arriving.max(axis=0) + scores[t]
    best = best + final
    path = np.empty(len(scores), dtype=np.int64)
    path[-1] = best.argmax()
    score = float(best[path[-1]])
    if score == -np.inf:
        raise ValueError(f"no path of {len(scores)} frames is allowed: the recording is too short")
    for t in range(len(scores) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path, score


def without_repeats(path: np.ndarray) -> list[int]:
    """The states that a path visits, each stay counted once."""
    return path[np.append(True, path[1:] != path[:-1])].tolist()


@dataclass(frozen=True)
class Bigram:
    """log P(next class | class), with a start and an end.

    Args:
        initial: (n_classes,) log P(class | start).
        transition: (n_classes, n_classes) [i, j] is log P(j | i).
        final: (n_classes,) log P(end | class).
    """

    initial: np.ndarray
    transition: np.ndarray
    final: np.ndarray

    @classmethod
    def count(
        cls, transcripts: Iterable[Sequence[int]], n_classes: int, smoothing: float = 1.0
    ) -> Bigram:
        """P(b | a) = (count(a b) + smoothing) / (count(a) + smoothing (n_classes + 1)).

        Args:
            transcripts: sequences of classes.
            n_classes: how many there are.
            smoothing: added to every count, above 0.

        Raises:
            ValueError: no smoothing, under which pairs that were never seen are impossible.
        """
        if not smoothing > 0:
            raise ValueError(f"smoothing is {smoothing}: it must be above 0, for example 1")
        edge = n_classes  # the start as first index, the end as second
        counts = np.full((n_classes + 1, n_classes + 1), float(smoothing))
        for transcript in transcripts:
            around = np.array([edge, *transcript, edge])
            np.add.at(counts, (around[:-1], around[1:]), 1)
        counts[edge, edge] = 0  # a transcript says something
        with np.errstate(divide="ignore"):
            log = np.log(counts / counts.sum(axis=1, keepdims=True))
        return cls(log[edge, :-1], log[:-1, :-1], log[:-1, edge])

    def decode(self, scores: np.ndarray, change: float) -> list[int]:
        """The best sequence of classes, each of any length of one frame or more.

        Args:
            scores: (n_frames, n_classes) log likelihoods.
            change: added whenever one class follows another: the lower, the fewer are inserted.
                Staying costs nothing.
        """
        transition = self.transition + change
        np.fill_diagonal(transition, 0.0)
        return without_repeats(viterbi(scores, transition, self.initial, self.final)[0])
