"""Audio: 16-bit mono recordings as RIFF WAV or as NIST SPHERE, the format of TIMIT."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from scipy.io import wavfile

_SPHERE = b"NIST_1A"
_BYTE_ORDERS = {"01": "<i2", "10": ">i2"}
_UNKNOWN = 0x7FFF0000  # lengths from here on are no lengths, in a shorter file
_REMEDY = "convert it to 16-bit mono WAV, for example with: sox IN -b 16 -c 1 OUT.wav"


def read_audio(path: Path) -> tuple[int, np.ndarray]:
    """Read one recording, whatever its name ends in.

    Args:
        path: of a RIFF WAV or NIST SPHERE file, 16-bit PCM, one channel.

    Returns:
        Samples a second, and the samples (n_samples,) float32 in [-1, 1).

    Raises:
        ValueError: no such file, another format, or fewer samples than its header tells.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the recording {path}: {error.strerror}") from error
    try:
        rate, samples = _read_sphere(data) if data.startswith(_SPHERE) else _read_wav(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not len(samples):
        raise ValueError(f"{path}: the recording is empty")
    return rate, samples.astype(np.float32) / 2**15


def _read_wav(data: bytes) -> tuple[int, np.ndarray]:
    try:
        with warnings.catch_warnings():
            # Comments and the like, which many programs add.
            warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(_with_true_lengths(data)))
    except (ValueError, wavfile.WavFileWarning) as error:
        raise ValueError(f"neither a whole WAV nor a SPHERE file ({error})") from error
    except Exception as error:  # a broken header fails in scipy in many ways
        raise ValueError(f"neither WAV nor SPHERE ({type(error).__name__}: {error})") from error
    if samples.dtype != np.int16 or samples.ndim != 1:
        channels = samples.shape[-1] if samples.ndim > 1 else 1
        raise ValueError(f"{samples.dtype} samples in {channels} channel(s): {_REMEDY}")
    return int(rate), samples


def _with_true_lengths(data: bytes) -> bytes:
    """A WAV of its format and its samples alone, with the lengths that the file has.

    Programs that write into a pipe cannot go back to the header, and leave the largest lengths
    there, or none: then the samples go on to the end of the file.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return data
    place, form = 12, b""
    while place + 8 <= len(data):
        name, start = data[place : place + 4], place + 8
        size, left = _length(data, place), len(data) - start
        if name == b"data":
            if size >= _UNKNOWN > left or (size == 0 and not _is_chunk(data, start)):
                size = left - left % 2
            elif size > left:
                raise ValueError(
                    f"its header tells {size // 2} samples, the file holds {left // 2}: copy it "
                    "again, or keep what is there with: sox --ignore-length IN OUT.wav"
                )
            chunks = form + _chunk(b"data", data[start : start + size])
            return _chunk(b"RIFF", b"WAVE" + chunks)
        if name == b"fmt ":
            form = _chunk(name, data[start : start + size])
        place = start + size + size % 2
    return data


def _length(data: bytes, place: int) -> int:
    return int.from_bytes(data[place + 4 : place + 8], "little")


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + len(body).to_bytes(4, "little") + body


def _is_chunk(data: bytes, place: int) -> bool:
    """Whether a name and a length that fits are here, or nothing is."""
    name, rest = data[place : place + 4], len(data) - place - 8
    return not name or (
        name.isascii()
        and name.decode().isprintable()
        and 0 <= rest
        and _length(data, place) <= rest
    )


def _read_sphere(data: bytes) -> tuple[int, np.ndarray]:
    """A header of text, of a length that its second line tells; then the samples."""
    fields, start = _sphere_header(data)
    coding = fields.get("sample_coding", "pcm")
    if coding != "pcm":
        raise ValueError(
            f"the samples are coded as {coding!r}, which weightcast does not unpack: rewrite the "
            "file as plain PCM with NIST's sph2pipe (sph2pipe -f wav IN OUT.wav)"
        )
    size, channels = fields.get("sample_n_bytes", "2"), fields.get("channel_count", "1")
    order = fields.get("sample_byte_format", "01")
    if size != "2" or channels != "1" or order not in _BYTE_ORDERS:
        raise ValueError(
            f"{size} byte(s) a sample in {channels} channel(s), byte order {order!r}: {_REMEDY}"
        )
    rate, count = (_whole(fields, name) for name in ("sample_rate", "sample_count"))
    samples = np.frombuffer(data[start : start + 2 * count], dtype=np.uint8)
    if len(samples) != 2 * count:
        raise ValueError(
            f"the header tells {count} samples, the file holds {len(samples) // 2}: copy it again"
        )
    return rate, samples.view(_BYTE_ORDERS[order])


def _sphere_header(data: bytes) -> tuple[dict[str, str], int]:
    """The header's fields by name, and where the samples start."""
    try:
        start = int(data[8:16])
        lines = data[16:start].decode("ascii").split("\n")
        lines = lines[: [line.strip() for line in lines].index("end_head")]
    except ValueError as error:
        raise ValueError("the SPHERE header is broken: copy the file again") from error
    parts = [line.split(None, 2) for line in lines]
    return {part[0]: part[2].strip() for part in parts if len(part) == 3}, start


def _whole(fields: dict[str, str], name: str) -> int:
    value = fields.get(name, "")
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError(f"the SPHERE header's {name} is {value!r}: copy the file again")
    return int(value)
