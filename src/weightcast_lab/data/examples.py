"""Examples: labelled texts, a text, or images, as a network of the Hub takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from weightcast.files import user_path
from weightcast_lab.data.image_sources import numbered, read_labels, read_pictures, read_splits
from weightcast_lab.data.images import Split
from weightcast_lab.data.text import TEST_SHARE, read_source, windows_of

PADDING = -1
"""What fills up the rows of shorter texts, in place of a token."""

Task = Literal["text-classification", "text-generation", "image-classification"]

_REMEDY = "give a folder or Hub name that datasets reads, with the split 'train'"


@dataclass(frozen=True)
class Examples:
    """What a network is adapted to, split once and for all.

    Args:
        name: what a row or a table calls the data.
        train: tokens x (n, length) int64 or pixels (n, channels, height, width), and labels y (n,)
            or, of a text that goes on, tokens (n, length) int64.
        validation: the same, or None where nothing was set aside.
        test: the same; measured once before and once after.
        n_classes: labels are 0 to n_classes - 1.
        criterion: which entry of a score says which weights are better.
        labels: their names, none of tokens.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    n_classes: int
    criterion: Literal["error", "loss"] = "error"
    labels: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Examples:
        """The same on a device."""
        splits = [self.train, self.test, *([] if self.validation is None else [self.validation])]
        train, test, *aside = [(x.to(device), y.to(device)) for x, y in splits]
        rest = (self.n_classes, self.criterion, self.labels)
        return Examples(self.name, train, aside[0] if aside else None, test, *rest)


def read_examples(
    task: Task, source: str, reader: Any, *, length: int, n_validation: int, channels: int = 3
) -> Examples:
    """Read data for a task into memory.

    Args:
        task: what is to be learned.
        source: for a text that goes on, what :func:`load_text` takes; else a folder or a name on
            the Hub with a column ``label`` or ``labels``, and ``text`` or images. Where there is no
            split ``test``, a tenth, drawn always alike, is it.
        reader: the network's tokenizer, or what prepares its images.
        length: tokens of an example; longer texts are cut.
        n_validation: examples to set aside, drawn always alike; of a text, its last windows.
        channels: of the images that the network takes.

    Raises:
        ValueError: no such data, other columns, too few examples, or labels unknown in training.
    """
    if task == "text-generation":
        name, train, test = read_source(source)

        def encode(text: str) -> list[int]:
            return reader(text, add_special_tokens=False, verbose=False)["input_ids"]

        splits = windows_of(source, train, test, encode, length, n_validation, "tokens")
        return Examples(name, *splits, len(reader), "loss")
    found = read_splits(source, ("train",), _REMEDY)
    parts = {name: found[name] for name in ("train", "test") if name in found}
    answers = {name: read_labels(part, f"{source}, split {name!r}") for name, part in parts.items()}
    y = [torch.from_numpy(part) for part in _in_numbers(list(answers.values()), source)]
    read = _read_texts if task == "text-classification" else _read_images
    rows = [read(part, reader, f"{source}, split {n!r}", length, channels)
            for n, part in parts.items()]  # fmt: skip
    train, *rest = zip(_as_wide(rows), y, strict=True)
    test = rest[0] if rest else None
    if test is None:
        train, test = _set_aside(train, max(1, round(TEST_SHARE * len(train[1]))), source)
    aside = None
    if n_validation:
        train, aside = _set_aside(train, n_validation, source)
    path = user_path(source)
    name = path.resolve().name if path.is_dir() else source
    labels = _label_names(parts["train"], answers["train"])
    return Examples(name, train, aside, test, len(labels), labels=labels)


def _set_aside(split: Split, n: int, source: str) -> tuple[Split, Split]:
    """A split without n of its examples, and these."""
    x, y = split
    if not 0 < n < len(y):
        raise ValueError(f"{source} has {len(y)} examples left, and {n} are to be set aside")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    kept, aside = order[n:].sort().values, order[:n].sort().values
    return (x[kept], y[kept]), (x[aside], y[aside])


def _in_numbers(splits: list[np.ndarray], source: str) -> list[np.ndarray]:
    """Labels as int64, checked against those of the training split."""
    found = [labels.numpy() for labels in numbered(splits, source)]
    most = int(found[0].max(initial=-1))
    for labels in found:
        if not len(labels) or labels.min() < 0 or labels.max() > most:
            raise ValueError(
                f"{source} has {len(labels)} labels from {labels.min(initial=0)} to "
                f"{labels.max(initial=0)}: they must be 0 to {most}, as in the training split, and "
                "no split may be empty"
            )
    return found


def _label_names(split: Any, labels: np.ndarray) -> tuple[str, ...]:
    """The names in the order of their numbers."""
    classes = [kind.names for kind in split.features.values() if hasattr(kind, "names")]
    if classes:
        return tuple(classes[0])
    if labels.dtype.kind == "U":
        return tuple(np.unique(labels).tolist())
    return tuple(map(str, range(int(labels.max()) + 1)))


def _read_texts(split: Any, tokenizer: Any, where: str, length: int, _: int) -> Tensor:
    """Tokens (n, length), shorter ones filled up."""
    if "text" not in split.features:
        raise ValueError(f"{where} has the columns {', '.join(split.features)}: name one 'text'")
    texts = list(split["text"])
    odd = next((n for n, text in enumerate(texts) if not isinstance(text, str)), None)
    if odd is not None:
        raise ValueError(f"{where}: row {odd} is {texts[odd]!r}, where a text belongs")
    rows = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    if () in map(tuple, rows):
        raise ValueError(f"{where}: row {rows.index([])} has no token: leave it out")
    tokens = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PADDING)


def _as_wide(splits: list[Tensor]) -> list[Tensor]:
    """Texts of all splits filled up alike; pixels are as wide already."""
    width = max(x.shape[-1] for x in splits)
    fill: Callable[[Tensor], Tensor] = lambda x: torch.nn.functional.pad(  # noqa: E731
        x, (0, width - x.shape[-1]), value=PADDING
    )
    return list(map(fill, splits))


def _read_images(split: Any, processor: Any, where: str, _: int, channels: int) -> Tensor:
    """Pixels as the network takes them, (n, channels, height, width) float32."""
    shown = [_in_colour(picture, channels) for picture in read_pictures(split, where)]
    options = {"input_data_format": "channels_first", "return_tensors": "pt"}
    pixels = [processor(images=[picture], **options)["pixel_values"] for picture in shown]
    return torch.cat(pixels)


def _in_colour(picture: np.ndarray, channels: int) -> np.ndarray:
    """A picture of 8 bits with as many channels, without transparency."""
    bits = picture if picture.dtype == np.uint8 else (picture >> 8).astype(np.uint8)
    seen = bits[: 3 if len(bits) > 2 else 1]
    if len(seen) == channels:
        return seen
    return np.repeat(seen, 3, 0) if channels == 3 else seen.mean(0, keepdims=True).astype(np.uint8)
