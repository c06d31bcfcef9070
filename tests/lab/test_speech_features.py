import cmath
import math

import numpy as np
import pytest

from weightcast_lab.data.speech import FeatureSettings, log_mel
from weightcast_lab.data.speech.features import frame_centres, mel_filters


def noise(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def loops(signal, rate, bands, window, shift):
    """The formula, one number at a time: Fourier sums, triangles on the mel scale."""
    signal = [float(s) for s in signal]
    emphasised = [s - 0.97 * b for s, b in zip(signal, [0.0, *signal], strict=False)]
    n_fft = 1
    while n_fft < window:
        n_fft *= 2
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (bands + 1) / 2595) - 1) for i in range(bands + 2)]
    rows = []
    for start in range(0, len(emphasised) - window + 1, shift):
        cut = [
            emphasised[start + i] * (0.54 - 0.46 * math.cos(2 * math.pi * i / (window - 1)))
            for i in range(window)
        ]
        energy = [0.0] * bands
        for k in range(n_fft // 2 + 1):
            turn = -2j * cmath.pi * k / n_fft
            power = abs(sum(s * cmath.exp(turn * i) for i, s in enumerate(cut))) ** 2
            hertz = k * rate / n_fft
            for band in range(bands):
                low, middle, high = edges[band : band + 3]
                if low < hertz <= middle:
                    energy[band] += power * (hertz - low) / (middle - low)
                elif middle < hertz < high:
                    energy[band] += power * (high - hertz) / (high - middle)
        rows.append([math.log(e + 1e-7) for e in energy])
    return np.array(rows)


def test_energies_are_those_of_the_formula():
    signal = noise(400)
    settings = FeatureSettings(bands=6, window=12.5, shift=10)
    ours = log_mel(signal, 8000, settings)
    theirs = loops(signal, 8000, 6, 100, 80)
    assert ours.shape == theirs.shape == (4, 6)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(
    ("rate", "n", "frames"),
    [(8000, 8000, 98), (16000, 16000, 98), (8000, 200, 1), (8000, 279, 1), (8000, 280, 2)],
)
def test_frames_of_25_ms_start_every_10_ms(rate, n, frames):
    assert log_mel(noise(n), rate, FeatureSettings()).shape == (frames, 24)


def test_a_recording_shorter_than_a_frame_is_one_frame_of_it_and_silence():
    short = noise(120)
    padded = np.append(short, np.zeros(80, dtype=np.float32))
    ours = log_mel(short, 8000, FeatureSettings())
    assert ours.shape == (1, 24)
    assert np.array_equal(ours, log_mel(padded, 8000, FeatureSettings()))


def test_silence_has_a_finite_energy():
    assert np.allclose(log_mel(np.zeros(400, np.float32), 8000, FeatureSettings()), math.log(1e-7))


@pytest.mark.parametrize("band", [3, 12, 22])
def test_a_tone_is_loudest_in_its_own_band(band):
    filters = mel_filters(24, 512, 16000)
    hertz = filters[band].argmax() * 16000 / 512
    tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 16000)
    assert (log_mel(tone, 16000, FeatureSettings()).argmax(axis=1) == band).all()


def test_neighbouring_filters_add_up_to_one_between_their_centres():
    filters = mel_filters(10, 512, 16000)
    first, last = filters[0].argmax() + 1, filters[-1].argmax()
    np.testing.assert_allclose(filters.sum(axis=0)[first:last], 1)


def test_a_frame_is_labelled_by_the_sample_in_its_middle():
    assert frame_centres(3, 16000, FeatureSettings()).tolist() == [200, 360, 520]


@pytest.mark.parametrize("field", ["bands", "window", "shift"])
def test_settings_that_are_not_positive_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 0: it must be above 0"):
        FeatureSettings(**{field: 0})


def test_frames_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match=r"are 0 and 80 samples at 8000 Hz"):
        log_mel(noise(100), 8000, FeatureSettings(window=0.01))
    with pytest.raises(ValueError, match=r"of 60 mel bands hold no frequency .* fewer bands"):
        log_mel(noise(100), 8000, FeatureSettings(bands=60, window=4))
