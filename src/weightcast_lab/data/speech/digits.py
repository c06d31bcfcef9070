"""Spoken digits: a folder of ``{digit}_{speaker}_{index}.wav``, as the Free Spoken Digit Dataset.

Recordings 0 to 4 of each speaker and digit are the official test split. There is no phone
segmentation: each recording is cut into three parts of equal length, and a frame's class is its
digit and its part. Reference: Z. Jackson and others, Free Spoken Digit Dataset, CC BY-SA 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightcast.files import user_path
from weightcast_lab.data.speech.audio import read_audio
from weightcast_lab.data.speech.corpus import (
    Corpus,
    Recording,
    evenly_spaced,
    name_some,
    partial_name,
)
from weightcast_lab.data.speech.features import FeatureSettings, log_mel

PARTS = 3
N_TEST = 5
NAME = "FSDD, a stand-in for TIMIT"
_FILE = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")


@dataclass(frozen=True, order=True)
class _File:
    digit: int
    speaker: str
    index: int
    path: Path


def read_digits(
    folder: str | Path,
    settings: FeatureSettings,
    *,
    n_validation: int = 0,
    max_recordings: int | None = None,
) -> Corpus:
    """Read the recordings and make their features.

    Args:
        folder: with the recordings, or with a folder ``recordings`` that holds them.
        settings: of the features.
        n_validation: recordings of each speaker and digit to set aside, those with the lowest
            indices outside the test split.
        max_recordings: of each split, spread over digits and speakers; None reads all.

    Raises:
        ValueError: no such folder, files of other names, missing or unreadable recordings, or
            recordings at several sampling rates.
    """
    files = _find_files(user_path(folder))
    splits: list[list[_File]] = [[], [], []]
    for speaker_and_digit in _group(files):
        rest = [file for file in speaker_and_digit if file.index >= N_TEST]
        splits[0] += rest[n_validation:]
        splits[1] += rest[:n_validation]
        splits[2] += [file for file in speaker_and_digit if file.index < N_TEST]
    _check(files, splits, n_validation)
    rates: set[int] = set()
    train, validation, test = (
        tuple(_read(split[i], settings, rates) for i in evenly_spaced(len(split), max_recordings))
        for split in map(sorted, splits)
    )
    classes = tuple(f"{digit}, part {part + 1}" for digit in range(10) for part in range(PARTS))
    return Corpus(partial_name(NAME, max_recordings), classes, train, validation, test)


@dataclass(frozen=True)
class Voice:
    """One recording as it was made: samples (n,) float32 in [-1, 1), at ``rate`` a second."""

    digit: int
    speaker: str
    rate: int
    samples: np.ndarray


def read_voices(folder: str | Path, indices: range) -> list[Voice]:
    """Read the recordings of some indices, in the order of digits, speakers and indices.

    Raises:
        ValueError: no such folder, files of other names, or unreadable recordings.
    """
    files = [file for file in _find_files(user_path(folder)) if file.index in indices]
    return [Voice(file.digit, file.speaker, *read_audio(file.path)) for file in files]


def _find_files(folder: Path) -> list[_File]:
    inside = folder / "recordings"
    folder = inside if inside.is_dir() else folder
    remedy = "give the folder of the Free Spoken Digit Dataset that holds recordings/"
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: {remedy}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    matches = {path: _FILE.fullmatch(path.name) for path in paths}
    strangers = [path.name for path, match in matches.items() if match is None]
    if not paths or strangers:
        found = f"{len(strangers)} WAV files of other names: {name_some(strangers)}"
        raise ValueError(
            f"{folder} has {found if strangers else 'no WAV files'}; recordings are named "
            f"DIGIT_SPEAKER_INDEX.wav: {remedy}"
        )
    return sorted(
        _File(int(match[1]), match[2], int(match[3]), path)
        for path, match in matches.items()
        if match
    )


def _group(files: Iterable[_File]) -> list[list[_File]]:
    """Files of one digit and speaker each, in the order of their indices."""
    groups: dict[tuple[int, str], list[_File]] = {}
    for file in files:
        groups.setdefault((file.digit, file.speaker), []).append(file)
    return list(groups.values())


def _check(files: list[_File], splits: list[list[_File]], n_validation: int) -> None:
    have = {(file.digit, file.speaker, file.index) for file in files}
    speakers = sorted({file.speaker for file in files})
    missing = [
        f"{digit}_{speaker}_{index}.wav"
        for digit in range(10)
        for speaker in speakers
        for index in range(N_TEST)
        if (digit, speaker, index) not in have
    ]
    if missing:
        raise ValueError(
            f"{len(missing)} recordings of the test split are missing: {name_some(missing)}; "
            "download the data set again, or leave a speaker out altogether"
        )
    if n_validation < 0:
        raise ValueError(f"n_validation is {n_validation}: it must be 0 or more")
    trained = {(file.digit, file.speaker) for file in splits[0]}
    untrained = 10 * len(speakers) - len(trained)
    if untrained:
        raise ValueError(
            f"{untrained} of {10 * len(speakers)} pairs of speaker and digit have no recording "
            f"left to train on, with n_validation {n_validation} set aside and {N_TEST} for the "
            "test: set fewer aside, or add recordings"
        )


def _read(file: _File, settings: FeatureSettings, rates: set[int]) -> Recording:
    rate, signal = read_audio(file.path)
    rates.add(rate)
    if len(rates) > 1:
        raise ValueError(
            f"{file.path} has {rate} samples a second, recordings before it "
            f"{min(rates - {rate})}: convert all to one rate"
        )
    frames = log_mel(signal, rate, settings)
    if len(frames) < PARTS:
        raise ValueError(
            f"{file.path} gives {len(frames)} frames, and its {PARTS} parts need one each: take a "
            "shorter shift, or leave the recording out"
        )
    part = np.arange(len(frames)) * PARTS // len(frames)
    labels = (file.digit * PARTS + part).astype(np.int64)
    return Recording(file.path.stem, file.speaker, frames, labels, (file.digit,))
