from dataclasses import replace

import numpy as np
import pytest
import torch

from weightcast_lab.data.speech import Corpus, Recording, stack_context, to_images
from weightcast_lab.data.speech.corpus import evenly_spaced, name_some


def recording(n, seed, label=0):
    frames = np.random.default_rng(seed).normal(3, 5, (n, 4)).astype(np.float32)
    return Recording(f"r{seed}", "ann", frames, np.full(n, label), (label,))


@pytest.fixture
def corpus():
    train = (recording(6, 1), recording(3, 2, label=1))
    return Corpus(
        "tones", ("a", "b"), train, (recording(2, 3),), (recording(5, 4), recording(1, 5))
    )


def test_context_repeats_the_first_and_the_last_frame():
    frames = np.arange(8).reshape(4, 2)
    stacked = stack_context(frames, 2)
    assert stacked.shape == (4, 5, 2)
    for t in range(4):
        for i in range(5):
            assert stacked[t, i].tolist() == frames[min(max(t + i - 2, 0), 3)].tolist()
    assert np.array_equal(stack_context(frames, 0)[:, 0], frames)
    with pytest.raises(ValueError, match="context is -1"):
        stack_context(frames, -1)


def test_images_are_frames_with_context_scaled_by_the_training_frames(corpus):
    images = to_images(corpus, 1)
    assert images.name == "tones"
    assert images.n_classes == 2
    assert images.shape == (1, 3, 4)
    x, y = images.train
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert y.tolist() == [0] * 6 + [1] * 3
    middle = x[:, 0, 1]
    assert torch.allclose(middle.mean(dim=0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(middle.std(dim=0, correction=0), torch.ones(4))
    # Context stops at the recording's end.
    assert torch.equal(x[5, 0, 2], x[5, 0, 1])
    assert torch.equal(x[6, 0, 0], x[6, 0, 1])
    together = np.concatenate([r.frames for r in corpus.train])
    scaled = (corpus.test[0].frames - together.mean(axis=0)) / together.std(axis=0)
    assert np.allclose(images.test[0][:5, 0, 1], scaled, atol=1e-5)
    assert images.validation is not None
    assert len(images.validation[1]) == 2


def test_nothing_is_learned_from_test_or_validation_frames(corpus):
    other = replace(corpus, validation=(), test=(recording(9, 8),))
    ours, theirs = to_images(corpus, 1), to_images(other, 1)
    assert torch.equal(ours.train[0], theirs.train[0])
    assert theirs.validation is None


def test_a_silent_feature_is_refused(corpus):
    frames = corpus.train[0].frames.copy()
    frames[:, 2] = 7
    silent = replace(corpus, train=(replace(corpus.train[0], frames=frames),))
    with pytest.raises(ValueError, match="feature 2 is 7 in all 6 training frames of tones"):
        to_images(silent, 1)


def test_priors_count_every_class_once_more(corpus):
    assert np.allclose(np.exp(corpus.log_priors()), [7 / 11, 4 / 11])


def test_what_is_evenly_spaced_runs_from_first_to_last():
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 10).tolist() == evenly_spaced(3, None).tolist() == [0, 1, 2]


def test_names_are_cut_short():
    assert name_some(list("abcdefg")) == "a, b, c, d, e, and 2 more"
    assert name_some(["a"]) == "a"
