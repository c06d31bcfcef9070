"""Write the small files in ``tests/fuzz/corpus/`` that readers once failed on.


    python -m tests.fuzz.make_corpus

``test_corpus.py`` reads them all: a reader gives what it should, or one line that names the file.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CORPUS = Path(__file__).parent / "corpus"

ROW = {
    "schema": 1, "experiment": "a", "variant": "v", "dataset": "d", "seed": 0, "config": {},
    "counts": {"learned": 9}, "metrics": {"test_error": 1.0, "train_seconds": 1}, "versions": {},
}  # fmt: skip
LINE = json.dumps(ROW)
FORMAT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
SAMPLES = np.arange(20, dtype="<i2").tobytes()


def _wav(riff: int, size: int, samples: bytes = SAMPLES) -> bytes:
    lengths = [number.to_bytes(4, "little") for number in (riff, size)]
    return b"RIFF" + lengths[0] + b"WAVE" + FORMAT + b"data" + lengths[1] + samples


def _picture(picture: Image.Image, kind: str, keep: float = 1.0) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind)
    return data.getvalue()[: int(keep * len(data.getvalue()))]


def files() -> dict[str, bytes]:
    """Names, whose beginnings say whether they are read, to contents."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    texts = {
        "read-keys.yaml": "rules: {0.10: null, 010: null, 1:30: null, no: null, ~: null}\n",
        "refused-twice.yaml": "a: 1\na: 2\n",
        "refused-deep.yaml": "[" * 3000,
        "refused-itself.yaml": "&x [*x]\n",
        "refused-deep.json": "[" * 9999,
        "refused-twice.json": '{"a": 1, "a": 2}',
        "read.jsonl": f"{LINE}\n\n{LINE}",
        "refused-huge.jsonl": LINE.replace("1.0", "1" + "0" * 400),
        "refused-nan.jsonl": LINE.replace("1.0", "NaN"),
        "refused-deep.jsonl": "[" * 9999,
        "refused-object.jsonl": LINE.replace('"a"', "{}"),
        "refused-negative.jsonl": LINE.replace("9", "-9"),
    }
    return {
        **{name: text.encode() for name, text in texts.items()},
        "read-utf-16.jsonl": LINE.encode("utf-16"),
        "read-mark.jsonl": LINE.encode("utf-8-sig"),
        "refused-utf-16-without-mark.jsonl": LINE.encode("utf-16-le"),
        "refused-latin.jsonl": LINE.replace("v", "\u00e9").encode("latin-1"),
        "refused-latin.yaml": "caf\u00e9: 1".encode("latin-1"),
        "read-utf-16.yaml": "caf\u00e9: 1".encode("utf-16"),
        "read-pipe.wav": _wav(0xFFFFFFFF, 0xFFFFFFFF),
        "read-none.wav": _wav(0, 0),
        "read-short-riff.wav": _wav(5, 40),
        "refused-cut.wav": _wav(66, 40, SAMPLES[:30]),
        "refused-empty.wav": _wav(36, 0, b""),
        "read-palette.png": _picture(red.convert("P"), "PNG"),
        "read-inks.jpg": _picture(red.convert("CMYK"), "JPEG"),
        "read-16-bits.png": _picture(Image.fromarray(np.full((8, 8), 300, np.uint16)), "PNG"),
        "refused-cut.jpg": _picture(red, "JPEG", 0.7),
        "refused-cut.png": _picture(red, "PNG", 0.7),
        "refused-floats.tiff": _picture(Image.new("F", (8, 8)), "TIFF"),
    }


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    for name, data in files().items():
        (CORPUS / name).write_bytes(data)
