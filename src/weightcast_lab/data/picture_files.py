"""Pictures: image files of every mode as pixels, or refused by mode and file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

_DIRECT = {"L", "LA", "RGB", "RGBA", "I;16"}
# What the others hold is no brightness: numbers of a palette, inks, premultiplied light.
_CONVERTED = {
    **dict.fromkeys(("RGBX", "CMYK", "YCbCr", "HSV", "P"), "RGB"),
    **{"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"},
    **dict.fromkeys(("I;16B", "I;16L", "I;16N"), "I;16"),
}


def read_picture(file: Mapping[str, Any], where: str) -> np.ndarray:
    """One image as (channels, height, width) in 8 or 16 bits, turned upright.

    Grey values stay one channel and transparency a last one; palettes, inks and other codes of
    colours become red, green and blue.

    Args:
        file: ``bytes``, and ``path``, as ``datasets.Image(decode=False)`` gives them.
        where: the image, in messages, where it has no path.

    Raises:
        ValueError: a file that cannot be decoded, or a mode without colours in 8 or 16 bits.
    """
    from PIL import Image, ImageOps

    data, place = file.get("bytes"), file.get("path") or where
    if data is None and file.get("path") is None:
        raise ValueError(f"{where} is missing: leave its row out")
    try:
        with Image.open(place if data is None else io.BytesIO(data)) as picture:
            upright = ImageOps.exif_transpose(picture)
            mode = _CONVERTED.get(upright.mode, upright.mode)
            if mode == "RGB" and "transparency" in upright.info:
                mode = "RGBA"
            if mode in _DIRECT:
                pixels = np.asarray(upright if mode == upright.mode else upright.convert(mode))
                return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    except Exception as error:  # every decoder has errors of its own
        raise ValueError(
            f"{place} cannot be decoded ({error}): replace it, or remove it"
        ) from error
    raise ValueError(
        f"{place} is an image of mode {mode!r}, which has no 8 or 16 bits a colour: convert it to "
        "RGB or grey"
    )
