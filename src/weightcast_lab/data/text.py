"""Text: characters in memory, cut into windows that a language model sees at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from weightcast.files import read_text, user_path
from weightcast_lab.data.image_sources import read_splits
from weightcast_lab.data.images import Split

DESCRIPTIONS = "descriptions"
"""What scikit-learn says of its data sets: 40,000 characters that every installation has."""

TEST_SHARE = 0.1
"""Of a text that has no test split of its own, taken from its end."""


@dataclass(frozen=True)
class Text:
    """A text as windows of numbered characters, split once and for all.

    Windows follow one another without overlap. Each character is to be predicted from those before
    it in its window.

    Args:
        name: what a row or a table calls the data.
        train: characters x (n, context) int64, and y of the same shape, each one's successor.
        validation: the same, or None where nothing was set aside.
        test: the same; measured once, at the end.
        alphabet: the characters in the order of their numbers.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    alphabet: str
    criterion: ClassVar[Literal["error", "loss"]] = "loss"

    @property
    def context(self) -> int:
        """Characters in a window."""
        return self.train[0].shape[1]

    @property
    def shape(self) -> tuple[int]:
        """Of one window: its characters."""
        return (self.context,)

    @property
    def n_classes(self) -> int:
        """Characters of the alphabet."""
        return len(self.alphabet)

    def to(self, device: torch.device) -> Text:
        """The same text on a device."""
        aside = None if self.validation is None else _move(self.validation, device)
        return replace(
            self,
            train=_move(self.train, device),
            validation=aside,
            test=_move(self.test, device),
        )

    def fewer(self, n_train: int) -> Text:
        """The same with fewer training windows, the first ones.

        Args:
            n_train: windows to keep.

        Raises:
            ValueError: there are not so many.
        """
        x, y = self.train
        if not 1 <= n_train <= len(x):
            raise ValueError(f"n_train is {n_train}: {self.name} has {len(x)} training windows")
        return replace(self, train=(x[:n_train], y[:n_train]))

    def decode(self, numbers: Tensor) -> str:
        """The characters of these numbers, (length,)."""
        return "".join(self.alphabet[number] for number in numbers.tolist())


def load_text(source: str, *, context: int = 128, n_validation: int = 0) -> Text:
    """Read a text into memory; its alphabet is every character that occurs in it.

    Args:
        source: ``"descriptions"``, a text that comes with scikit-learn; else a text file in UTF-8,
            or a local folder or a name on the Hugging Face Hub with a column ``text`` and the
            split ``train``. Where there is no split ``test``, the last tenth of the text is it.
        context: characters in a window.
        n_validation: windows to set aside, from the end of the training text.

    Raises:
        ValueError: no such file or data set, one that is no text, or too few characters for one
            window of each split.
    """
    name, train, test = read_source(source)
    alphabet = "".join(sorted(set(train + test)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    splits = windows_of(
        source, train, test, lambda text: [numbers[c] for c in text], context, n_validation
    )
    return Text(name, *splits, alphabet)


def windows_of(
    source: str,
    train: str,
    test: str,
    encode: Callable[[str], Sequence[int]],
    context: int,
    n_validation: int,
    unit: str = "characters",
) -> tuple[Split, Split | None, Split]:
    """Non-overlapping windows of a text for training, validation and test, each with its successor.

    Args:
        source: what messages call the text.
        train: a text, whose last tenth is for testing where ``test`` is empty.
        test: another, or nothing.
        encode: a text's numbers.
        context: numbers in a window.
        n_validation: windows to set aside, from the end of the training text.
        unit: what a number stands for, in messages.

    Raises:
        ValueError: too few for one window of each split.
    """
    if context < 1:
        raise ValueError(f"context is {context}: a window holds at least 1 of the {unit}")
    if not test:
        n_test = round(TEST_SHARE * len(train))
        train, test = train[: len(train) - n_test], train[len(train) - n_test :]
    x, y = _windows(encode(train), context)
    test_windows = _windows(encode(test), context)
    if not 0 <= n_validation < len(x) or len(test_windows[0]) < 1:
        raise ValueError(
            f"{source} has {len(x)} training and {len(test_windows[0])} test windows of {context} "
            f"{unit}, and {n_validation} are to be set aside: at least 1 must be left of each; "
            "take a longer text, a smaller context or fewer validation windows"
        )
    kept = len(x) - n_validation
    aside = (x[kept:], y[kept:]) if n_validation else None
    return (x[:kept], y[:kept]), aside, test_windows


def _windows(numbers: Sequence[int], context: int) -> Split:
    """Non-overlapping windows, and the same one further on; the rest of the text is left out."""
    all_numbers = torch.tensor(numbers, dtype=torch.int64)
    n = max(0, len(numbers) - 1) // context
    x = all_numbers[: n * context].view(n, context)
    return x, all_numbers[1 : n * context + 1].view(n, context) if n else x


def read_source(source: str) -> tuple[str, str, str]:
    """A source's name, its training text and its test text, empty where it has none."""
    if source == DESCRIPTIONS:
        return "scikit-learn's descriptions", _read_descriptions(), ""
    path = user_path(source)
    if path.is_file():
        try:
            return path.resolve().stem, read_text(path), ""
        except OSError as error:
            raise ValueError(f"cannot read the text {source}: {error}") from error
    remedy = "give a text file, a folder or Hub name with a column 'text', or 'descriptions'"
    splits: dict[str, Any] = read_splits(source, ("train",), remedy)
    for split, rows in splits.items():
        if "text" not in rows.features:
            raise ValueError(
                f"{source}: the split {split!r} has the columns {', '.join(rows.features)}: a "
                "language model needs one named 'text'"
            )
    texts = {split: list(splits[split]["text"]) for split in ("train", "test") if split in splits}
    for split, rows in texts.items():
        odd = next((n for n, row in enumerate(rows) if not isinstance(row, str)), None)
        if odd is not None:
            raise ValueError(
                f"{source}: row {odd} of the split {split!r} is {rows[odd]!r}, where a text "
                "belongs: leave such rows out"
            )
    train, test = ("\n".join(texts.get(split, ())) for split in ("train", "test"))
    return (path.resolve().name if path.is_dir() else source), train, test


def _read_descriptions() -> str:
    from sklearn import datasets

    folder = Path(datasets.__file__).parent / "descr"
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.rst")))


def _move(split: Split, device: torch.device) -> Split:
    x, y = split
    return x.to(device), y.to(device)
