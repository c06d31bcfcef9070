"""Tiny corpora of tones, in the layouts of the Free Spoken Digit Dataset and of TIMIT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile

SPEAKERS = ("ann", "bob")
PHRASE = ("h#", "sh", "iy", "q", "bcl", "b", "h#")
"""What every sentence of the tiny TIMIT says, or nearly so."""


def tone(hertz, n_samples, rate, generator):
    """A tone with a little noise, 16 bits."""
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(n_samples) / rate)
    noise = 0.01 * generator.standard_normal(n_samples)
    return ((wave + noise) * 2**15).astype(np.int16)


def write_digits(
    folder: Path, n_per_pair: int = 7, seed: int = 0, speakers: Sequence[str] = SPEAKERS
) -> Path:
    """DIGIT_SPEAKER_INDEX.wav, three tones each, which differ from digit to digit."""
    generator = np.random.default_rng(seed)
    recordings = folder / "recordings"
    recordings.mkdir(parents=True)
    for digit in range(10):
        for speaker in speakers:
            for index in range(n_per_pair):
                n = int(generator.integers(500, 700))
                pitches = (300 + 300 * digit, 3500 - 300 * digit, 500 + 250 * digit)
                parts = [tone(hertz, n, 8000, generator) for hertz in pitches]
                path = recordings / f"{digit}_{speaker}_{index}.wav"
                wavfile.write(path, 8000, np.concatenate(parts))
    return folder


def sphere(samples: np.ndarray, rate: int = 16000, **fields: str) -> bytes:
    """A NIST SPHERE file: a header of 1,024 bytes, then the samples as they are."""
    header = {
        "sample_count": f"-i {len(samples)}",
        "sample_rate": f"-i {rate}",
        "channel_count": "-i 1",
        "sample_byte_format": "-s2 01",
        "sample_n_bytes": "-i 2",
        "sample_coding": "-s3 pcm",
    } | fields
    lines = ["NIST_1A", "   1024", *(f"{k} {v}" for k, v in header.items() if v), "end_head", ""]
    return "\n".join(lines).encode().ljust(1024) + samples.tobytes()


def write_timit(folder: Path, n_train: int = 4, n_test: int = 2, lower: bool = False) -> Path:
    """TRAIN and TEST of so many speakers; those of TEST are in SPHERE files, others in WAV."""
    generator = np.random.default_rng(0)
    for split, n_speakers in (("TRAIN", n_train), ("TEST", n_test)):
        for number in range(n_speakers):
            speaker = f"{'MF'[number % 2]}{split[:2]}X{number}"
            place = folder / split / f"DR{number % 8 + 1}" / speaker
            for sentence in ("SA1", *(f"SX{3 + i}" for i in range(5)), "SI7", "SI8", "SI9"):
                path = place / sentence
                write_sentence(path, generator, as_sphere=split == "TEST", lower=lower)
    return folder


def write_sentence(path: Path, generator, as_sphere: bool, lower: bool = False) -> None:
    """One recording with its transcription."""
    path = Path(str(path).lower()) if lower else path
    path.parent.mkdir(parents=True, exist_ok=True)
    pitches = {"h#": 0, "sh": 5000, "iy": 2500, "q": 100, "bcl": 50, "b": 700}
    parts, lines, start = [], [], 0
    for phone in PHRASE:
        n = int(generator.integers(800, 1600))
        parts.append(tone(pitches[phone], n, 16000, generator))
        lines.append(f"{start} {start + n} {phone}")
        start += n
    audio, phones = ("wav", "phn") if lower else ("WAV", "PHN")
    samples = np.concatenate(parts)
    if as_sphere:
        path.with_suffix(f".{audio}").write_bytes(sphere(samples))
    else:
        wavfile.write(path.with_suffix(f".{audio}"), 16000, samples)
    path.with_suffix(f".{phones}").write_text("\n".join(lines) + "\n")
