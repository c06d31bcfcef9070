"""Phones: TIMIT's 61 symbols, and the 39 classes that are told apart in scoring.

Reference: K.-F. Lee and H.-W. Hon, Speaker-independent phone recognition using hidden Markov
models, IEEE Transactions on Acoustics, Speech, and Signal Processing 37, 1989, table I.
"""

from __future__ import annotations

from collections.abc import Iterable

_VOWELS = "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h"
_CONSONANTS = (
    "jh ch s sh z zh f th v dh m n ng em en eng nx l r w y hh hv el b d g p t k dx q "
    "bcl dcl gcl pcl tcl kcl"
)
_SILENCES = "pau epi h#"

PHONES: tuple[str, ...] = tuple(f"{_VOWELS} {_CONSONANTS} {_SILENCES}".split())
"""The 61 symbols of TIMIT's phonetic transcriptions; a frame's label is its place here."""

# Classes of several symbols, by their name; all others stand for themselves.
_CLASSES = {
    "aa": "ao",
    "ah": "ax ax-h",
    "er": "axr",
    "hh": "hv",
    "ih": "ix",
    "l": "el",
    "m": "em",
    "n": "en nx",
    "ng": "eng",
    "sh": "zh",
    "sil": "bcl dcl gcl pcl tcl kcl pau epi h#",
    "uw": "ux",
}
_MERGED = {phone: name for name, phones in _CLASSES.items() for phone in phones.split()}

FOLDED: dict[str, str | None] = {
    phone: None if phone == "q" else _MERGED.get(phone, phone) for phone in PHONES
}
"""Each symbol's class among the 39; the glottal stop q is left out and has none."""


def fold(labels: Iterable[int]) -> list[str]:
    """The classes of a sequence of phones, glottal stops left out; runs are kept as they are.

    Args:
        labels: places in ``PHONES``.
    """
    classes = (FOLDED[PHONES[label]] for label in labels)
    return [name for name in classes if name is not None]
