"""inspect: what a saved folder holds, found without the model that it is for."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.saved_folders import edit_facts, edit_tensors, make_model, save_quietly
from weightcast.cli.doctor_command import _folder_check
from weightcast.storage.inspection import inspect


@pytest.fixture
def folder(tmp_path):
    wc.save(make_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_what_is_finite_in_its_own_dtype(dtype, tmp_path):
    model = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(torch.finfo(dtype).max)
    model.weight = nn.Parameter(model.weight.to(dtype), requires_grad=False)
    wc.save(model, tmp_path / "model")
    assert inspect(tmp_path / "model").not_finite == ()
    model.weight.data[-1, -1] = torch.nan
    wc.save(model, tmp_path / "model")
    assert inspect(tmp_path / "model").not_finite == ("weight",)


def test_complex_numbers_and_the_last_chunk(tmp_path):
    model = nn.Module()
    model.register_buffer("z", torch.zeros(3_000_001, dtype=torch.complex64))
    wc.save(model, tmp_path / "model")
    assert inspect(tmp_path / "model").not_finite == ()
    model.z[-1] = complex(0, float("nan"))
    wc.save(model, tmp_path / "model")
    assert inspect(tmp_path / "model").not_finite == ("z",)


@pytest.mark.parametrize("shape", [[2**40, 2**40, 0], [0, 2**62, 2**62], [2**62, 0, 4]])
def test_sizes_that_overflow(folder, shape):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    end = max(entry["data_offsets"][1] for entry in header.values())
    header["x"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :])
    edit_facts(folder, lambda facts: facts["tensors"].update(x="00000000"))
    with pytest.raises(wc.FormatError, match="is damaged: the header"):
        inspect(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["counts"].update(saved=10**9), "says that it saves 1,000,000,000 numbers"),
        (
            lambda f: f["counts"].update(learned=10**9),
            "says that 1,000,000,000 numbers are learned",
        ),
        (lambda f: f["counts"].pop("saved"), "says that it saves"),
        (lambda f: f["layers"]["2"].update(learned=7), "layer '2' says that it learns 7 numbers"),
    ],
)
def test_counts_that_are_not_those_of_the_tensors(folder, change, message):
    edit_facts(folder, change)
    with pytest.raises(wc.FormatError, match=message):
        inspect(folder)


def test_counts_of_learned_bases_and_tied_layers(tmp_path):
    save_quietly(make_model("LowRank"), tmp_path / "model")
    inspect(tmp_path / "model")
    dense = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24, bias=False))
    dense[1].weight = dense[0].weight
    model = wc.convert(dense, {"*": wc.Rule(wc.dictionaries.DCT(), 0.3)})
    wc.save(model, tmp_path / "tied")
    inspect(tmp_path / "tied")


def test_what_a_stranger_wrote_is_printed_short_and_plain(folder):
    odd = "\x1b[2J" + "x" * 10_000
    edit_tensors(folder, lambda t: t.update({"4.bias": t["4.bias"] * torch.nan}))
    for change in (
        lambda f: f.update(versions={odd: odd, "torch\nok": "1"}),
        lambda f: f.update(versions=dict.fromkeys(map(str, range(5000)), "1")),
        lambda f: f["ties"].update({odd: odd}),
    ):
        edit_facts(folder, change)
        check = _folder_check(folder)
        assert check.state == "failed"
        assert check.detail.isprintable()
        assert len(check.detail) < 2000


def test_a_name_that_is_not_finite_is_printed_plainly(tmp_path):
    model = nn.Module()
    model.register_buffer("\x1b[2J" + "x" * 5000, torch.tensor([torch.nan]))
    wc.save(model, tmp_path / "model")
    check = _folder_check(tmp_path / "model")
    assert "NaN or infinite: '\\x1b[2J" in check.detail
    assert check.detail.isprintable()
    assert len(check.detail) < 2000
