from itertools import pairwise, product

import numpy as np
import pytest

from weightcast_lab.data.speech import Bigram, edit_distance, viterbi
from weightcast_lab.data.speech.viterbi import without_repeats


def every_path(scores, transition, initial, final):
    """The best path of all, tried one by one."""
    best, best_path = -np.inf, None
    for path in product(range(scores.shape[1]), repeat=len(scores)):
        total = initial[path[0]] + final[path[-1]]
        total += sum(scores[t, s] for t, s in enumerate(path))
        total += sum(transition[a, b] for a, b in pairwise(path))
        if total > best:
            best, best_path = total, path
    return best_path, best


@pytest.mark.parametrize("n_frames", [1, 2, 5])
@pytest.mark.parametrize("forbidden", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all_paths(n_frames, forbidden, seed):
    generator = np.random.default_rng(seed)
    scores, transition = generator.normal(size=(n_frames, 4)), generator.normal(size=(4, 4))
    initial, final = generator.normal(size=(2, 4))
    for table in (transition, initial, final):
        table[generator.random(table.shape) < forbidden] = -np.inf
    theirs, best = every_path(scores, transition, initial, final)
    if theirs is None:
        with pytest.raises(ValueError, match=f"no path of {n_frames} frames"):
            viterbi(scores, transition, initial, final)
        return
    path, score = viterbi(scores, transition, initial, final)
    assert path.tolist() == list(theirs)
    assert score == pytest.approx(best)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="no frames"):
        viterbi(np.zeros((0, 2)), np.zeros((2, 2)), np.zeros(2), np.zeros(2))


def test_each_stay_counts_once():
    assert without_repeats(np.array([4, 4, 1, 1, 1, 4])) == [4, 1, 4]
    assert without_repeats(np.array([2])) == [2]


def test_bigrams_are_counted_with_start_and_end():
    bigram = Bigram.count([(0, 1, 1), (0, 2)], 3, smoothing=0.5)
    # From 1: once to 1, once to the end, and half a count for each of 3 classes and the end.
    assert np.allclose(np.exp(bigram.transition[1]), np.array([0.5, 1.5, 0.5]) / 4)
    assert np.exp(bigram.final[1]) == pytest.approx(1.5 / 4)
    assert np.allclose(np.exp(bigram.initial), np.array([2.5, 0.5, 0.5]) / 3.5)
    total = np.exp(bigram.transition).sum(axis=1) + np.exp(bigram.final)
    assert np.allclose(total, 1)
    assert np.exp(bigram.initial).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="smoothing is 0"):
        Bigram.count([(0,)], 2, smoothing=0)


@pytest.mark.parametrize("change", [0.0, -1.5])
def test_decoding_finds_the_best_of_all_segmentations(change):
    generator = np.random.default_rng(3)
    bigram = Bigram.count([(0, 1, 2, 0), (2, 1), (1, 0, 2)], 3)
    for _ in range(20):
        scores = generator.normal(size=(5, 3))
        best, answer = -np.inf, None
        for path in product(range(3), repeat=5):
            stays = without_repeats(np.array(path))
            pairs = list(pairwise(stays))
            total = sum(scores[t, s] for t, s in enumerate(path)) + change * len(pairs)
            total += bigram.initial[path[0]] + bigram.final[path[-1]]
            total += sum(bigram.transition[a, b] for a, b in pairs)
            if total > best:
                best, answer = total, stays
        before = bigram.transition.copy()
        assert bigram.decode(scores, change) == answer
        assert np.array_equal(bigram.transition, before)


def recursive_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    change = recursive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(change, recursive_distance(a[1:], b) + 1, recursive_distance(a, b[1:]) + 1)


def test_edit_distance_is_that_of_the_definition():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], ["a", "b"]) == edit_distance(["a", "b"], []) == 2
    generator = np.random.default_rng(0)
    for _ in range(30):
        a, b = (generator.integers(0, 3, generator.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(a, b) == recursive_distance(a, b)
