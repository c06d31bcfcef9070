"""Buffers of every dtype and layout come back, or are refused by name and leave no file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast.storage import FormatError
from weightcast.storage.inspection import inspect

RULES = {"l": wc.Rule(wc.dictionaries.DCT(), 0.5)}


class Net(nn.Module):
    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        self.l = nn.Linear(16, 8)
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)


def of(dtype: str) -> Tensor:
    found = getattr(torch, dtype)
    floats = found.is_floating_point or found.is_complex
    return torch.arange(6).to(torch.float32 if floats else torch.uint8).to(found)


z = torch.complex(torch.arange(3.0), torch.ones(3))
HELD = {
    "expanded": torch.arange(4.0).expand(3, 4),
    "expanded behind": torch.arange(3.0)[:, None].expand(3, 4),
    "expanded twice": torch.arange(3.0)[:, None, None].expand(3, 4, 5),
    "one number, expanded": torch.tensor(3.0).expand(2, 2),
    "windows": torch.arange(5.0).unfold(0, 3, 1),
    "transposed": torch.randn(3, 4).t(),
    "steps": torch.randn(9)[::2],
    "channels last": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
    "a number": torch.tensor(3),
    "nothing": torch.empty(0, 3),
    "conjugate": z.conj(),
    "negative": z.conj().imag,
    **{
        dtype: of(dtype)
        for dtype in (
            *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"),
            *("float16", "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn"),
            *("float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
        )
    },
}

REFUSED = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "rows": lambda: torch.eye(3).to_sparse_csr(),
    "columns": lambda: torch.eye(3).to_sparse_csc(),
    "blocks": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "mkldnn": lambda: torch.ones(3).to_mkldnn(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
    "complex32": lambda: of("complex32"),
    "complex128": lambda: of("complex128"),
    "float8_e8m0fnu": lambda: torch.empty(2, dtype=torch.float8_e8m0fnu),
    "float4_e2m1fn_x2": lambda: torch.empty(2, dtype=torch.float4_e2m1fn_x2),
    "int4": lambda: torch.empty(2, dtype=torch.int4),
    "bits8": lambda: torch.empty(2, dtype=torch.bits8),
}


def saved(tmp_path, **buffers):
    wc.save(wc.convert(Net(**buffers), RULES), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("place", ["alike", "plain"])
def test_a_tensor_comes_back(kind, place, tmp_path):
    held = HELD[kind]
    folder = saved(tmp_path, held=held)
    empty = torch.zeros_like(held).contiguous()
    if place == "alike" and 0 in held.stride():  # the model has such a buffer, too
        empty = held[tuple(slice(None if n else 1) for n in held.stride())].clone().expand_as(held)
    again = wc.load(folder, Net(held=empty))
    assert again.held.dtype == held.dtype
    assert torch.equal(again.held, held)
    assert inspect(folder).not_finite == ()


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_no_file_holds_is_refused_by_name(kind, tmp_path):
    model = wc.convert(Net(held=REFUSED[kind]()), RULES, inplace=True)
    with pytest.raises(ValueError, match=r"'held' is .*(cannot hold|holds no values)"):
        wc.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_tensor_and_its_conjugate_are_not_tied(tmp_path):
    folder = saved(tmp_path, a=z, b=z.conj(), c=z)
    tied = torch.zeros_like(z)
    again = wc.load(folder, Net(a=tied, b=torch.zeros_like(z), c=tied))
    assert torch.equal(again.a, z)
    assert torch.equal(again.b, z.conj())


def test_other_values_where_the_model_repeats_one_are_refused(tmp_path):
    folder = saved(tmp_path, held=torch.randn(3, 4))
    with pytest.raises(FormatError, match="'held' differs where the model repeats one value"):
        wc.load(folder, Net(held=torch.zeros(4).expand(3, 4)))
