"""Our safetensors files beside those of the safetensors package."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import weightcast as wc
from tests.saved_folders import checksum
from weightcast.storage.tensors import DTYPES, TensorFile, write_tensors

GENERATOR = torch.Generator().manual_seed(0)


def example(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=GENERATOR).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=GENERATOR).to(dtype)


TENSORS = {
    **{f"dtype.{code}": example(dtype, 3, 5) for code, dtype in DTYPES.items()},
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "transposed": example(torch.float32, 4, 6).t(),
    "slice": example(torch.float32, 9, 9)[2:5, ::2],
    "large": example(torch.float32, 700, 1001),  # more than one chunk
    'named/with "quotes" and ünïcode': example(torch.int16, 2),
}


def test_the_package_reads_our_files(tmp_path):
    checksums = write_tensors(tmp_path / "file", TENSORS)
    loaded = load_file(tmp_path / "file")
    assert loaded.keys() == TENSORS.keys() == checksums.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert checksums[name] == checksum(tensor.contiguous())
        if tensor.numel():
            data, expected = (
                (t.contiguous().view(torch.uint8) for t in (loaded[name], tensor))
                if (tensor.dim())
                else (loaded[name], tensor)
            )
            assert torch.equal(data, expected), name


def test_our_files_are_those_of_the_package(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    write_tensors(tmp_path / "ours", contiguous)
    save_file(contiguous, tmp_path / "theirs")
    ours, theirs = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()
    sizes = [int.from_bytes(data[:8], "little") for data in (ours, theirs)]
    headers = [json.loads(d[8 : 8 + n]) for d, n in zip((ours, theirs), sizes, strict=True)]
    assert headers[0].keys() == headers[1].keys()
    assert sizes[0] % 8 == 0


def test_we_read_files_of_the_package(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "file", metadata={"format": "pt"})
    with (tmp_path / "file").open("rb", buffering=0) as opened:
        file = TensorFile(opened, {name: checksum(t) for name, t in contiguous.items()})
        for name, tensor in contiguous.items():
            read = file.read(name)
            assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
            assert checksum(read) == checksum(tensor)


def test_tensors_are_read_into_place(tmp_path):
    tensors = {"a": example(torch.float32, 3, 4), "b": example(torch.int64, 2)}
    checksums = write_tensors(tmp_path / "file", tensors)
    with (tmp_path / "file").open("rb", buffering=0) as opened:
        file = TensorFile(opened, checksums)
        for place in (
            torch.zeros(3, 4),
            torch.zeros(4, 3).t(),
            torch.zeros(3, 4, dtype=torch.float64),
            torch.zeros(5, 6)[1:4, 1:5],
        ):
            file.read_into("a", place)
            assert torch.equal(place.float(), tensors["a"])
        with pytest.raises(wc.FormatError, match=r"'a' is \(3, 4\), the model has \(4, 3\)"):
            file.read_into("a", torch.zeros(4, 3))
        with pytest.raises(
            wc.FormatError, match=r"'a' is torch.float32, the model has torch.int64"
        ):
            file.read_into("a", torch.zeros(3, 4, dtype=torch.int64))
        with pytest.raises(
            wc.FormatError, match=r"'b' is torch\.int64, the model has torch.float32"
        ):
            file.read_into("b", torch.zeros(2))
        with pytest.raises(wc.FormatError, match="holds no tensor 'c'"):
            file.read("c")
        file._checksums = checksums | {"a": "00000000"}
        with pytest.raises(wc.FormatError, match="'a' was changed after it was saved"):
            file.read("a")


def test_existing_files_are_not_overwritten(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.zeros(2)})
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "file", {"a": torch.ones(2)})
