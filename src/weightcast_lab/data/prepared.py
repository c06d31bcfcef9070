"""Prepared images: a data set decoded once, in a file that the next process opens at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weightcast_lab.data.images import Images, Split

SUFFIX = ".safetensors"
_KIND = "weightcast images 1"
_KEYS = ("train_x", "train_y", "test_x", "test_y")


def save_images(images: Images, path: str | os.PathLike[str]) -> Path:
    """Write training and test images, 8 bits a pixel; a file that is there is replaced whole.

    Sixty thousand PNG files take some ten seconds to decode, and this file a tenth of one: worth
    it where many processes train on the same images.

    Args:
        images: with pixels in [0, 1], as ``load_images`` reads them, and
            without validation images, which each run sets aside for itself.
        path: of the file, with the suffix ``.safetensors``; missing folders are made.

    Raises:
        ValueError: standardised pixels, a validation split, or another suffix.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}, by which load_images knows such a file")
    if images.validation is not None:
        raise ValueError(f"{len(images.validation[1])} images are set aside: save them all as one")
    tensors = {}
    for name, (x, y) in (("train", images.train), ("test", images.test)):
        tensors |= {f"{name}_x": _to_bytes(x), f"{name}_y": y.clone()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, draft, {"kind": _KIND, "about": json.dumps({"name": images.name})})
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def read_prepared(path: str | os.PathLike[str]) -> tuple[str, Split, Split]:
    """Read the data's name, its training and its test images.

    Raises:
        ValueError: no such file, or one that :func:`save_images` has not written.
    """
    remedy = "name the data set itself, or prepare its images anew"
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != _KIND or set(file.keys()) != set(_KEYS):
                raise ValueError(f"{path} holds no prepared images: {remedy}")
            train_x, train_y, test_x, test_y = (file.get_tensor(key) for key in _KEYS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the prepared images in {path}: {error}: {remedy}") from error
    name = json.loads(metadata["about"])["name"]
    return name, (_to_unit(train_x), train_y), (_to_unit(test_x), test_y)


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Channels, height and width of a prepared file's images, from its header alone.

    Raises:
        ValueError: no such file, or one that :func:`save_images` has not written.
    """
    try:
        with safe_open(path, "pt") as file:
            _, channels, height, width = file.get_slice("train_x").get_shape()
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"cannot read the prepared images in {path}: {error}") from error
    return channels, height, width


def _to_bytes(x: Tensor) -> Tensor:
    """Pixels in [0, 1] as the 8-bit values they were."""
    if not (0 <= float(x.min()) and float(x.max()) <= 1):
        raise ValueError(
            f"the pixels run from {float(x.min()):g} to {float(x.max()):g}: save images before "
            "they are standardised, with pixels in [0, 1]"
        )
    if float((x * 255 - (x * 255).round()).abs().max()) > 1e-3:
        raise ValueError("these images have more than 8 bits a pixel: name the data set itself")
    return (x * 255).round().to(torch.uint8).contiguous()


def _to_unit(x: Tensor) -> Tensor:
    return x.float().div_(255)
