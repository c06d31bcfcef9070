"""Tensors in a safetensors file: written and read one at a time, each with its checksum.

The format is that of the ``safetensors`` package: eight bytes that give the length of a JSON
header, the header with every tensor's dtype, shape and place, and the data without gaps. We read it
ourselves so that nothing is allocated because a header says so: a tensor goes straight from the
file to where it belongs, after its shape was compared.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from weightcast.storage.few_bits import FewBits
from weightcast.storage.format_error import FormatError, excerpt, parse_json
from weightcast.storage.manifest import TENSORS_NAME

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
"""Names of dtypes in a safetensors header."""

SCALES = ".scales"
"""After the name of a tensor in few bits, that of its scales."""

_CHUNK = 1 << 20  # small enough to be in the cache still when its checksum is taken
_ENTRY = 512  # bytes of a tensor's entry in the header beside its name, with room to spare


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a new safetensors file of tensors in any layout of memory; returns their checksums."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    for name, tensor in tensors.items():
        check_storable(repr(name), tensor)
    # Largest items first, so that every tensor lies at a multiple of its items' size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor = tensors[name]
        shape, places = list(tensor.shape), [end, end + tensor.nbytes]
        header[name] = {"dtype": codes[tensor.dtype], "shape": shape, "data_offsets": places}
        end = places[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    checksums = {}
    with path.open("xb") as file, ThreadPoolExecutor(1) as thread:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
            value = _start(tensor)
            for chunk in _chunks(tensor):  # the checksum of one, while it is written, if that pays
                large = len(chunk) == _CHUNK
                running = thread.submit(zlib.crc32, chunk, value) if large else None
                file.write(chunk)
                value = running.result() if running else zlib.crc32(chunk, value)
            checksums[name] = f"{value:08x}"
    return checksums


def check_storable(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that a safetensors file cannot hold, by its name."""
    dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized)
    if not dense or tensor.is_meta or tensor.dtype not in DTYPES.values():
        raise ValueError(
            f"{name} is a{' nested' * tensor.is_nested} tensor of {tensor.dtype}, layout "
            f"{tensor.layout}, on {tensor.device}, which safetensors cannot hold: keep it as dense "
            "tensors of other dtypes, or in a buffer with persistent=False"
        )


@dataclass(frozen=True)
class Entry:
    """What the header says of a tensor; its bytes begin to end, counted from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """A safetensors file that is open for reading, with the checksums of all its tensors."""

    def __init__(
        self,
        file: BinaryIO,
        checksums: Mapping[str, str],
        packed: Mapping[str, FewBits] | None = None,
    ) -> None:
        self._file = file
        self._checksums = checksums
        self._packed = packed or {}
        size = file.seek(0, 2)
        file.seek(0)
        n_header = int.from_bytes(file.read(8), "little")
        allowed = _ENTRY + sum(_ENTRY + 12 * len(name) for name in checksums)
        if size < 8 + n_header or n_header > allowed:
            raise FormatError(
                f"is damaged: {TENSORS_NAME} has {size} bytes and says that its header has "
                f"{n_header}, where {len(checksums)} tensors need at most {allowed}"
            )
        self._data = 8 + n_header
        self._stored = _read_header(file.read(n_header), size - self._data)
        if self._stored.keys() != checksums.keys():
            odd = sorted(self._stored.keys() ^ checksums.keys())[:3]
            raise FormatError(
                f"is damaged: {TENSORS_NAME} and its checksums differ in {excerpt(odd)}"
            )

        self.entries = _unpacked(self._stored, self._packed)

    def entry(self, name: str) -> Entry:
        """What the header says of a tensor; a FormatError if there is none of this name."""
        if name not in self.entries:
            raise FormatError(f"is damaged: {TENSORS_NAME} holds no tensor {excerpt(name)}")
        return self.entries[name]

    def read(self, name: str) -> Tensor:
        """A tensor, on the CPU, in memory of its own."""
        self.entry(name)
        if name in self._packed:
            parts = (self._read_stored(part) for part in (name, name + SCALES))
            return self._packed[name].unpack(*parts)
        return self._read_stored(name)

    def read_into(self, name: str, place: Tensor) -> None:
        """Fill a tensor of the same shape; one floating-point dtype may be cast to another."""
        entry = self.entry(name)
        if entry.shape != tuple(place.shape):
            raise FormatError(
                f"does not fit: {name!r} is {entry.shape}, the model has {tuple(place.shape)}"
            )
        floats = entry.dtype.is_floating_point and place.is_floating_point()
        if entry.dtype != place.dtype and not floats:
            raise FormatError(
                f"does not fit: {name!r} is {entry.dtype}, the model has {place.dtype}"
            )
        plain = name not in self._packed and place.device.type == "cpu" and place.is_contiguous()
        if plain and entry.dtype == place.dtype:
            self._fill(name, place)
            return
        data, once = self.read(name), [slice(None if step else 1) for step in place.stride()]
        place[tuple(once)].copy_(data[tuple(once)])  # where it is expanded, one of all alike
        if 0 in place.stride() and not torch.equal(place, data.to(place)):
            raise FormatError(f"does not fit: {name!r} differs where the model repeats one value")

    def _read_stored(self, name: str) -> Tensor:
        """What lies in the file under a name."""
        entry = self._stored[name]
        tensor = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        self._fill(name, tensor)
        return tensor

    def _fill(self, name: str, tensor: Tensor) -> None:
        """Read straight into a contiguous tensor of the entry's dtype and shape."""
        if _checksum(tensor, self._read(name, tensor)) != self._checksums[name]:
            raise FormatError(f"is damaged: {name!r} was changed after it was saved (checksum)")

    def _read(self, name: str, tensor: Tensor) -> Iterator[memoryview]:
        """The bytes of a tensor, each chunk once it is read."""
        self._file.seek(self._data + self._stored[name].begin)
        for chunk in _chunks(tensor):
            n_read = 0
            while n_read < len(chunk):
                n_more = self._file.readinto(chunk[n_read:])  # pyright: ignore[reportAttributeAccessIssue]
                if not n_more:
                    raise FormatError(f"is damaged: {TENSORS_NAME} ends within {name!r}")
                n_read += n_more
            yield chunk


def tensor_checksum(tensor: Tensor) -> str:
    """CRC-32 of a tensor's dtype, shape and bytes; it is contiguous, on the CPU."""
    return f"{zlib.crc32(_bytes(tensor), _start(tensor)):08x}"


def _read_header(text: bytes, n_data: int) -> dict[str, Entry]:
    """The entries of a header, whose tensors must fill the data without gap or overlap."""
    header = parse_json(text, TENSORS_NAME)
    if not isinstance(header, dict):
        raise FormatError(f"is damaged: the header of {TENSORS_NAME} is no object")
    header.pop("__metadata__", None)
    try:
        entries = {name: _read_entry(entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"is damaged: the header of {TENSORS_NAME}: {excerpt(error)}") from error
    place = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != place:
            raise FormatError(f"is damaged: {TENSORS_NAME} has a gap or an overlap at {place}")
        place = entry.end
    if place != n_data:
        raise FormatError(f"is damaged: {TENSORS_NAME} has {n_data} bytes of data, not {place}")
    return entries


def _unpacked(stored: Mapping[str, Entry], packed: Mapping[str, FewBits]) -> dict[str, Entry]:
    """The entries as they are read: a matrix for the codes and scales of each that is packed."""
    entries = dict(stored)
    for name, few in packed.items():
        codes, scales = entries.get(name), entries.pop(name + SCALES, None)
        kept = [(e.dtype, e.shape) for e in (codes, scales) if e is not None]
        if codes is None or kept != [
            (torch.uint8, few.codes_shape), (torch.bfloat16, few.scales_shape)
        ]:  # fmt: skip
            raise FormatError(
                f"is damaged: {TENSORS_NAME} does not hold {excerpt(name)} in {few.bits} bits, as "
                f"{few.codes_shape} codes and {few.scales_shape} scales"
            )
        entries[name] = Entry(few.result, few.shape, codes.begin, codes.end)
    return entries


def _read_entry(data: Any) -> Entry:
    dtype, shape, (begin, end) = DTYPES[data["dtype"]], data["shape"], data["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise ValueError(f"shape {shape} at {begin} to {end}")
    if len(shape) > 64 or math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for {shape} of {dtype}")
    if math.prod(max(1, extent) for extent in shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"{shape} of {dtype}: no such tensor can be, even if it is empty")
    return Entry(dtype, tuple(shape), begin, end)


def _checksum(tensor: Tensor, chunks: Iterator[memoryview]) -> str:
    """:func:`tensor_checksum`, of a chunk in a thread while the next one is read."""
    value = _start(tensor)
    if tensor.nbytes < _CHUNK:  # as most are: a thread would not pay
        for chunk in chunks:
            value = zlib.crc32(chunk, value)
        return f"{value:08x}"
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(int, value)
        for chunk in chunks:
            running = thread.submit(zlib.crc32, chunk, running.result())
        return f"{running.result():08x}"


def _start(tensor: Tensor) -> int:
    """The checksum of dtype and shape, with which that of the bytes starts."""
    return zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode())


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    data = _bytes(tensor)
    return (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))


def _bytes(tensor: Tensor) -> memoryview:
    """All bytes of a contiguous tensor on the CPU, as a view of it."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
