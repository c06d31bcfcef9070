from itertools import combinations

import numpy as np
import pytest

from weightcast_lab.data.speech import PHONES, Bigram, Corpus, Recording, digit_error, phone_error
from weightcast_lab.data.speech.scoring import (
    CHANGES,
    by_recording,
    choose_change,
    folded_frame_error,
)


def recording(n_frames, transcript):
    labels = np.zeros(n_frames, dtype=np.int64)
    return Recording("r", "ann", np.zeros((n_frames, 1), np.float32), labels, tuple(transcript))


def best_digit(scores):
    """Every digit's best boundaries, tried one by one."""
    n = len(scores)
    totals = [
        max(
            scores[:a, 3 * d].sum() + scores[a:b, 3 * d + 1].sum() + scores[b:, 3 * d + 2].sum()
            for a, b in combinations(range(1, n), 2)
        )
        for d in range(10)
    ]
    return int(np.argmax(totals))


def test_a_digit_is_the_one_with_the_best_path_from_left_to_right():
    generator = np.random.default_rng(0)
    scores = [generator.normal(size=(n, 30)) for n in (3, 4, 6, 9, 9)]
    answers = [best_digit(s) for s in scores]
    assert len(set(answers)) > 1
    right = [recording(len(s), [a]) for s, a in zip(scores, answers, strict=True)]
    assert digit_error(right, np.concatenate(scores)) == 0
    wrong = [*right[:3], recording(9, [(answers[3] + 1) % 10]), right[4]]
    assert digit_error(wrong, np.concatenate(scores)) == pytest.approx(20)


def test_frames_must_be_those_of_the_recordings():
    with pytest.raises(ValueError, match="9 frames were scored, the recordings have 7"):
        by_recording(np.zeros((9, 30)), [recording(3, [0]), recording(4, [1])])
    with pytest.raises(ValueError, match="too short"):
        digit_error([recording(2, [0])], np.zeros((2, 30)))


def places(*phones):
    return [PHONES.index(phone) for phone in phones]


def sharp(labels):
    """Log likelihoods that leave no doubt."""
    scores = np.full((len(labels), len(PHONES)), -50.0)
    scores[np.arange(len(labels)), labels] = 0
    return scores


FLAT = Bigram.count([], len(PHONES))


def test_phone_error_counts_edits_between_folded_phones():
    said = [recording(8, places("h#", "sh", "q", "ih", "h#")), recording(4, places("h#", "aa"))]
    heard = [
        places("h#", "h#", "zh", "zh", "ix", "ix", "pau", "pau"),  # the same, once folded
        places("h#", "eh", "eh", "iy"),  # sil eh iy for sil aa: one change, one too many
    ]
    scores = np.concatenate([sharp(path) for path in heard])
    assert phone_error(said, scores, FLAT, 0.0) == pytest.approx(100 * 2 / 6)
    assert phone_error(said[:1], scores[:8], FLAT, 0.0) == 0


def test_the_change_is_the_best_on_validation_recordings():
    generator = np.random.default_rng(1)
    truth = np.repeat(places("h#", "sh", "iy", "b", "h#"), 12)
    noisy = sharp(truth) / 25 + generator.normal(size=(60, len(PHONES)))
    aside = Recording("r", "ann", np.zeros((60, 1)), truth, tuple(truth[::12].tolist()))
    corpus = Corpus("tiny", PHONES, (aside,), (aside,), ())
    bigram = Bigram.count([aside.transcript], len(PHONES))
    errors = [phone_error([aside], noisy, bigram, change) for change in CHANGES]
    assert len(set(errors)) > 1
    assert choose_change(corpus, noisy, bigram) == CHANGES[int(np.argmin(errors))]


def test_folded_frames_leave_glottal_stops_out():
    labels = np.array(places("sh", "q", "ih", "aa"))
    answers = np.array(places("zh", "aa", "iy", "q"))
    assert folded_frame_error(labels, answers) == pytest.approx(100 * 2 / 3)
