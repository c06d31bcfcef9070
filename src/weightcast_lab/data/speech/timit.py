"""TIMIT: a user's own copy of the corpus, in the layout in which the LDC delivers it (LDC93S1).

    TRAIN|TEST / DR1 ... DR8 / SPEAKER / SENTENCE.WAV and SENTENCE.PHN

in upper or lower case. Each speaker reads ten sentences; the two of the kind SA are the same for
all speakers and are left out. Nothing is written into the folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from weightcast_lab.data.speech.features import FeatureSettings, frame_centres, log_mel
from weightcast_lab.data.speech.phones import PHONES

TestSet = Literal["core", "full", "part"]

NAMES = {
    "core": "TIMIT, core test set",
    "full": "TIMIT, full test set",
    "part": "a part of TIMIT",
}
RATE = 16_000
N_SPEAKERS = {"train": 462, "test": 168}
SENTENCES = {"SX": 5, "SI": 3}
CORE = frozenset(
    """
    MDAB0 MWBT0 FELC0  MTAS1 MWEW0 FPAS0  MJMP0 MLNT0 FPKT0  MLLL0 MTLS0 FJLM0
    MBPM0 MKLT0 FNLP0  MCMJ0 MJDH0 FMGD0  MGRT0 MNJM0 FDHC0  MJLN0 MPAM0 FMLD0
    """.split()  # noqa: SIM905
)
"""The 24 speakers of the core test set, two men and a woman of each dialect region."""

# Samples by which a transcription may be longer than its recording.
_SLACK = RATE // 10
_PLACE = {phone: place for place, phone in enumerate(PHONES)}
_SENTENCE = re.compile(r"(S[AIX])\d+")


@dataclass(frozen=True)
class _Sentence:
    speaker: str
    name: str
    audio: Path
    phones: Path


def read_timit(
    folder: str | Path,
    settings: FeatureSettings,
    *,
    test_set: TestSet = "core",
    n_validation: int = 0,
    max_recordings: int | None = None,
) -> Corpus:
    """Read the corpus and make its features.

    A frame's label is the phone that is spoken in its middle.

    Args:
        folder: that holds TRAIN and TEST, or a folder TIMIT that does.
        settings: of the features.
        test_set: the 24 ``core`` speakers, or all 168 (``full``); either needs the whole corpus.
            ``part`` takes the speakers that are there: for a trial, its figures compare with
            nobody's.
        n_validation: training speakers to set aside, evenly spaced in the order of their names.
        max_recordings: of each split, spread over its speakers; None reads all.

    Raises:
        ValueError: no TIMIT, missing or mismatched files (how many, and the first few), a
            transcription that does not fit its recording, or too many speakers set aside.
    """
    root = _find_root(user_path(folder))
    train, test = (_find_sentences(root, split) for split in ("train", "test"))
    test = _choose_speakers(train, test, test_set)
    train, validation = _set_aside(train, n_validation)
    splits = [
        tuple(_read(split[i], settings) for i in evenly_spaced(len(split), max_recordings).tolist())
        for split in (train, validation, test)
    ]
    name = partial_name(NAMES[test_set], max_recordings)
    return Corpus(name, PHONES, *splits)


def _find_root(folder: Path) -> Path:
    remedy = "give the folder of LDC93S1 that holds TRAIN and TEST"
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: {remedy}")
    for candidate in (folder, _child(folder, "timit")):
        if candidate and _child(candidate, "train") and _child(candidate, "test"):
            return candidate
    raise ValueError(f"{folder} has no folders TRAIN and TEST: {remedy}")


def _child(folder: Path, name: str) -> Path | None:
    """The folder's folder of that name, in any case."""
    return next((path for path in _folders(folder) if path.name.lower() == name), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _find_sentences(root: Path, split: str) -> list[_Sentence]:
    """All sentences of a split but SA, by speaker and name.

    Raises:
        ValueError: a recording without transcription or the reverse, or a speaker without all
            eight sentences.
    """
    part = _child(root, split)
    regions = (
        [path for path in _folders(part) if re.fullmatch(r"(?i)dr\d", path.name)] if part else []
    )
    sentences: list[_Sentence] = []
    problems: list[str] = []
    for speaker in (speaker for region in regions for speaker in _folders(region)):
        of_speaker, missing = _sentences_of(speaker)
        sentences += of_speaker
        where = f"{split.upper()}/{speaker.parent.name}/{speaker.name}"
        problems += [f"{where}/{name}" for name in missing]
    if problems:
        raise ValueError(
            f"{len(problems)} files of TIMIT are missing: {name_some(problems)}; copy the corpus "
            "again"
        )
    if not sentences:
        raise ValueError(
            f"{part} has no speakers in DR1 ... DR8: give the folder of LDC93S1 as it was delivered"
        )
    return sorted(sentences, key=lambda sentence: (sentence.speaker, sentence.name))


def _sentences_of(folder: Path) -> tuple[list[_Sentence], list[str]]:
    """One speaker's sentences, and what is missing."""
    files = {
        path.name.upper(): path
        for path in sorted(folder.iterdir())
        if path.suffix.upper() in (".WAV", ".PHN") and _SENTENCE.fullmatch(path.stem.upper())
    }
    names = sorted({Path(name).stem for name in files})
    missing = [
        f"{name}{suffix}"
        for name in names
        for suffix in (".WAV", ".PHN")
        if f"{name}{suffix}" not in files
    ]
    for kind, expected in SENTENCES.items():
        lacking = expected - sum(name.startswith(kind) for name in names)
        missing += [f"{kind}?.WAV"] * max(0, lacking)
    sentences = [
        _Sentence(folder.name.upper(), name, files[f"{name}.WAV"], files[f"{name}.PHN"])
        for name in names
        if not name.startswith("SA") and not missing
    ]
    return sentences, missing


def _choose_speakers(
    train: list[_Sentence], test: list[_Sentence], test_set: TestSet
) -> list[_Sentence]:
    """The test set's sentences, once the corpus is found complete."""
    if test_set == "part":
        return test
    speakers = {sentence.speaker for sentence in test}
    lacking = sorted(CORE - speakers)
    found = {"train": len({sentence.speaker for sentence in train}), "test": len(speakers)}
    if found != N_SPEAKERS or lacking:
        core = f", and of the core test set {name_some(lacking)} are missing" if lacking else ""
        raise ValueError(
            f"this is a part of TIMIT: {found['train']} of {N_SPEAKERS['train']} training speakers "
            f"and {found['test']} of {N_SPEAKERS['test']} test speakers{core}; copy the corpus "
            "again, or set test_set to 'part' and compare its figures with nobody's"
        )
    return [s for s in test if s.speaker in CORE] if test_set == "core" else test


def _set_aside(
    train: list[_Sentence], n_validation: int
) -> tuple[list[_Sentence], list[_Sentence]]:
    speakers = sorted({sentence.speaker for sentence in train})
    if not 0 <= n_validation < len(speakers):
        raise ValueError(
            f"n_validation is {n_validation}: of {len(speakers)} training speakers, between 0 and "
            f"{len(speakers) - 1} can be set aside"
        )
    aside = {speakers[i] for i in evenly_spaced(len(speakers), n_validation)}
    kept = [sentence for sentence in train if sentence.speaker not in aside]
    return kept, [sentence for sentence in train if sentence.speaker in aside]


def _read(sentence: _Sentence, settings: FeatureSettings) -> Recording:
    rate, signal = read_audio(sentence.audio)
    if rate != RATE:
        raise ValueError(
            f"{sentence.audio} has {rate} samples a second, its transcription counts at {RATE}: "
            "take the corpus as it was delivered"
        )
    ends, phones = _read_phones(sentence.phones, len(signal))
    frames = log_mel(signal, rate, settings)
    centres = frame_centres(len(frames), rate, settings)
    # In a gap the next phone has begun; beyond the last phone's end it goes on.
    segment = np.searchsorted(ends, centres, side="right").clip(max=len(phones) - 1)
    labels = np.array(phones, dtype=np.int64)[segment]
    name = f"{sentence.speaker}_{sentence.name}"
    return Recording(name, sentence.speaker, frames, labels, tuple(phones))


def _read_phones(path: Path, n_samples: int) -> tuple[np.ndarray, list[int]]:
    """Where each phone ends, in samples, and its place in PHONES.

    Raises:
        ValueError: lines that are not START END PHONE or not in order, an unknown phone, or a
            transcription longer than its recording.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the transcription {path}: {error}") from error
    ends, phones = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\S+)\s*", line)
        if match is None:
            raise ValueError(f"{where}: {line!r} is not START END PHONE")
        start, end, phone = int(match[1]), int(match[2]), match[3]
        if phone not in _PLACE:
            raise ValueError(f"{where}: {phone!r} is none of TIMIT's {len(PHONES)} phones")
        if end <= max([start, *ends[-1:]]):
            raise ValueError(f"{where}: {start} to {end} does not go on from {[0, *ends][-1]}")
        ends.append(end)
        phones.append(_PLACE[phone])
    if not phones:
        raise ValueError(f"{path} holds no phones: copy the corpus again")
    if ends[-1] > n_samples + _SLACK:
        raise ValueError(
            f"{path} ends at sample {ends[-1]}, its recording has {n_samples}: they do not belong "
            "together, copy the corpus again"
        )
    return np.array(ends), phones
