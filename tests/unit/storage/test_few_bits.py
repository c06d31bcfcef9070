"""FewBits beside torchao's quantisation, and folders that are saved with it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.saved_folders import make_model
from weightcast import dictionaries as d
from weightcast.storage import checkpoint_bytes, saved_bytes
from weightcast.storage.few_bits import FewBits
from weightcast.storage.inspection import inspect
from weightcast.storage.manifest import text_checksum


def matrix(rows=7, columns=200):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=draws)
    return x * torch.logspace(-3, 2, rows).unsqueeze(1)  # as atoms' sizes differ


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [20, 50, 200])
def test_it_rounds_as_torchao_does(bits, group_size):
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    x, half = matrix(), 2 ** (bits - 1)
    few = FewBits(bits, group_size, (7, 200), "float32")
    codes, scales = few.pack(x)
    assert codes.shape == few.codes_shape
    assert scales.shape == few.scales_shape
    block, ends = (1, group_size), (-half, half - 1)
    exact, zeros = primitives.choose_qparams_affine(
        x, primitives.MappingType.SYMMETRIC, block, torch.int8, *ends, scale_dtype=torch.float32
    )
    torch.testing.assert_close(scales.float(), exact.view_as(scales), rtol=2**-8, atol=0)
    q = primitives.quantize_affine(x, block, scales.float(), zeros, torch.int8, *ends)
    theirs = primitives.dequantize_affine(q, block, scales.float(), zeros, torch.int8, *ends)
    ours = few.unpack(codes, scales)
    step = scales.float().repeat_interleave(group_size, dim=1)
    assert bool(((ours - theirs).abs() <= 1.001 * step).all())
    assert float((ours != theirs).float().mean()) < 0.001  # but where x lies halfway


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("shape", "group_size"), [((3, 7), 4), ((1, 1), 64), ((5, 65), 32)])
def test_no_number_is_further_off_than_its_step(bits, shape, group_size):
    x = matrix(*shape)
    few = FewBits(bits, group_size, shape, "float32")
    codes, scales = few.pack(x)
    assert codes.numel() == (x.numel() * bits + 7) // 8
    found = few.unpack(codes, scales)
    step = scales.float().repeat_interleave(group_size, dim=1)[:, : shape[1]]
    # Half a step, and what the scale's own rounding takes of the largest number.
    assert bool(((found - x).abs() <= step * (0.51 + 2 ** (bits - 9))).all())
    again = few.unpack(*few.pack(found))
    torch.testing.assert_close(again, found, rtol=0.2, atol=0)
    zeros = torch.zeros(shape)
    assert torch.equal(few.unpack(*few.pack(zeros)), zeros)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 9)
    )
    x = torch.randn(300, 96)
    plan = {"0": wc.Rule(d.SingularVectors(), 0.5), "2": wc.Rule(d.LowRank(), 0.4), "*": None}
    return net, wc.compress(net, plan, [x], progress=False), x


@pytest.mark.parametrize(("bits", "most", "error"), [(8, 0.32, 1e-4), (4, 0.2, 0.02)])
def test_a_folder_in_few_bits_is_smaller_and_loads(bits, most, error, small, tmp_path):
    net, model, x = small
    for name in ("one", "two"):
        wc.save(model, tmp_path / name, bits=bits)
    for file in ("weightcast.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert saved_bytes(tmp_path / "one") == checkpoint_bytes(model, bits)
    words = (tmp_path / "one" / "weightcast.json").stat().st_size
    wc.save(model, tmp_path / "whole")
    assert "packed" not in json.loads((tmp_path / "whole" / "weightcast.json").read_text())
    rest = 4 * sum(p.numel() for p in model[4].parameters())
    data = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("one", "whole")]
    assert data[0] - rest < most * (data[1] - rest)
    assert words < 10_000
    loaded = wc.load(tmp_path / "one", net)
    with torch.no_grad():
        y, expected = loaded(x), model(x)
    assert float((y - expected).square().mean() / expected.var()) < error
    few = FewBits(bits, 64, tuple(model[0].V.shape), "float32")
    assert torch.equal(loaded[0].V, few.unpack(*few.pack(model[0].V)))
    assert torch.equal(loaded[4].weight, model[4].weight)
    half = wc.load(tmp_path / "one", net.to(torch.bfloat16))
    net.float()
    assert torch.equal(half[0].V, loaded[0].V.to(torch.bfloat16))
    inspection = inspect(tmp_path / "one")
    assert inspection.not_finite == ()
    assert (
        inspection.manifest.counts["saved"] == inspect(tmp_path / "whole").manifest.counts["saved"]
    )


def test_dictionaries_that_are_rebuilt_and_tied_layers_keep_what_they_had(tmp_path):
    model = make_model()
    wc.save(model, tmp_path / "model", bits=8, group_size=32)
    loaded = wc.load(tmp_path / "model", wc.merge(model))
    for name, tensor in model.state_dict().items():
        found = loaded.state_dict()[name]
        if name.endswith("V") or "atoms.base" in name:
            torch.testing.assert_close(found, tensor, rtol=0, atol=0.01 * float(tensor.abs().max()))
        else:
            assert torch.equal(found, tensor), name


def edit(folder, change):
    """Change the manifest, and its checksum with it."""

    file = folder / "weightcast.json"
    data = json.loads(file.read_text())
    del data["checksum"]
    change(data)
    data["checksum"] = text_checksum(json.dumps(data))
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["0.V"].update(bits=3), "bits is 3: take 8 or 4"),
        (lambda p: p["0.V"].update(bits=8), "does not hold '0.V' in 8 bits"),
        (lambda p: p["0.V"].update(group_size=8), "does not hold '0.V' in 4 bits"),
        (lambda p: p["0.V"].update(shape=[48, 2**40]), "does not hold '0.V'"),
        (lambda p: p["0.V"].update(shape=[96 * 40]), r"no \(3840,\) of float32 is kept"),
        (lambda p: p["0.V"].update(shape=[80, 48]), "does not hold '0.V'|has V"),
        (lambda p: p["0.V"].update(dtype="int8"), "of int8 is kept"),
        (lambda p: p.pop("0.V"), "has V"),
        (lambda p: p.update({"9.V": p["0.V"]}), "does not hold '9.V'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, small, tmp_path):
    net, model, _ = small
    wc.save(model, tmp_path / "model", bits=4)
    edit(tmp_path / "model", lambda data: change(data["packed"]))
    with pytest.raises(wc.FormatError, match=message):
        wc.load(tmp_path / "model", net)


def test_damage_is_found(small, tmp_path):
    net, model, _ = small
    wc.save(model, tmp_path / "model", bits=4)
    file = tmp_path / "model" / "model.safetensors"
    data = file.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    places = json.loads(data[8 : 8 + n_header])
    for name in ("0.V", "0.V.scales", "2.atoms.base.atoms"):
        place = 8 + n_header + places[name]["data_offsets"][0]
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(wc.FormatError, match=f"'{name}' was changed after it was saved"):
            wc.load(tmp_path / "model", net)


def test_what_cannot_be_saved_in_few_bits_is_said(small, tmp_path):
    model = small[1]
    for options, message in (
        ({"bits": 3}, "bits is 3"),
        ({"bits": 8, "group_size": 0}, "group_size"),
    ):
        with pytest.raises(ValueError, match=message):
            wc.save(model, tmp_path / "model", **options)

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].V[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match=r"'0\.V': NaN and infinite numbers .* save it without bits"
    ):
        wc.save(broken, tmp_path / "model", bits=8)
    assert not (tmp_path / "model").exists()
    wc.save(broken, tmp_path / "model")
