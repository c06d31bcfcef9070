"""Features: the logarithm of a recording's energy in mel bands, frame by frame.

e[t, b] = log(sum_f filter[b, f] |DFT(hamming * frame_t)[f]|^2 + floor)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from weightcast.serialization import Plain

_PRE_EMPHASIS = 0.97
# About the energy of the rounding to 16 bits: below it there is nothing to hear.
_FLOOR = 1e-7


@dataclass(frozen=True)
class FeatureSettings(Plain):
    """How a recording becomes frames.

    Args:
        bands: mel bands, the features of a frame.
        window: length of a frame in milliseconds.
        shift: from one frame's start to the next one's, in milliseconds.

    Raises:
        ValueError: a number that is not positive.
    """

    bands: int = 24
    window: float = 25.0
    shift: float = 10.0

    def __post_init__(self) -> None:
        for name in ("bands", "window", "shift"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")

    def samples(self, rate: int) -> tuple[int, int]:
        """Length of a frame and shift, in samples.

        Raises:
            ValueError: less than one sample.
        """
        window, shift = round(self.window * rate / 1000), round(self.shift * rate / 1000)
        if min(window, shift) < 1:
            raise ValueError(
                f"window {self.window} ms and shift {self.shift} ms are {window} and {shift} "
                f"samples at {rate} Hz: each must be 1 or more"
            )
        return window, shift


def log_mel(signal: np.ndarray, rate: int, settings: FeatureSettings) -> np.ndarray:
    """Energies in mel bands, on a logarithmic scale.

    Frame t covers the samples from t * shift on; what is left over at the end is no frame. A
    recording shorter than a frame is padded with zeros to one.

    Args:
        signal: (n_samples,) in [-1, 1).
        rate: samples a second.
        settings: bands, and the frames' length and distance.

    Returns:
        (n_frames, bands) float32.

    Raises:
        ValueError: frames too short for so many bands.
    """
    window, shift = settings.samples(rate)
    signal = np.pad(signal, (0, max(0, window - len(signal))))
    emphasised = np.append(signal[0], signal[1:] - _PRE_EMPHASIS * signal[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, window)[::shift]
    n_fft = 2 ** (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hamming(window), n_fft)) ** 2
    energy = power @ mel_filters(settings.bands, n_fft, rate).T
    return np.log(energy + _FLOOR).astype(np.float32)


def frame_centres(n_frames: int, rate: int, settings: FeatureSettings) -> np.ndarray:
    """The sample in the middle of each frame, (n_frames,) int64."""
    window, shift = settings.samples(rate)
    return np.arange(n_frames) * shift + window // 2


@cache
def mel_filters(bands: int, n_fft: int, rate: int) -> np.ndarray:
    """Triangles between neighbouring centres that are evenly spaced on the mel scale.

    Args:
        bands: number of filters.
        n_fft: points of the Fourier transform.
        rate: samples a second; the bands lie between 0 and rate / 2.

    Returns:
        (bands, n_fft // 2 + 1), each filter 1 at its centre.

    Raises:
        ValueError: so many bands that one holds no frequency of the transform.
    """
    edges = _to_hertz(np.linspace(0, _to_mel(rate / 2), bands + 2))
    frequency = np.arange(n_fft // 2 + 1) * rate / n_fft
    low, centre, high = (edges[i : i + bands, None] for i in range(3))
    filters = np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre))
    filters = filters.clip(min=0)
    empty = int((filters.sum(axis=1) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {bands} mel bands hold no frequency of a {n_fft}-point transform at "
            f"{rate} Hz: take fewer bands or a longer window"
        )
    return filters


def _to_mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))


def _to_hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
