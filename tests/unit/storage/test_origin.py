"""Origin: an adapter loads on the network it was made for, and says how far another one is."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.storage.inspection import inspect
from weightcast.storage.origin import origin_of

WHITENED = wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=3)


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Linear(16, 4))


def adapter(model: nn.Module) -> Any:
    """Trained a little, heads and norms too, and frozen for use."""
    x = torch.randn(50, 12)
    rules = {"0": WHITENED, "2": wc.Rule(d.DCT(), n_atoms=3, columns=2)}
    adapted = wc.adapt(model, rules, inputs=x, heads=["3"], free=["norm"])
    adapted(x)  # running statistics move
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return adapted.eval().requires_grad_(False)


@pytest.fixture
def saved(tmp_path):
    model = network()
    adapted = adapter(model)
    wc.save(adapted, tmp_path / "adapter")
    return model, adapted, tmp_path / "adapter"


def test_a_folder_holds_what_learned_and_what_cannot_be_rebuilt(saved):
    model, adapted, folder = saved
    loaded = wc.load(folder, model).eval()
    x = torch.randn(7, 12)
    assert torch.equal(loaded(x), adapted(x))
    assert loaded[0].frozen.weight.data_ptr() == model[0].weight.data_ptr()
    assert loaded[0].gain == adapted[0].gain
    free = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert free == ["0.delta.V", "1.weight", "1.bias", "2.delta.V", "3.weight", "3.bias"]
    assert loaded[3].weight.data_ptr() != model[3].weight.data_ptr()
    names = set(inspect(folder).manifest.tensors)
    assert {"0.delta.V", "0.delta.atoms.base.atoms", "2.delta.V", "1.running_mean"} < names
    assert not {name for name in names if "frozen" in name or "2.delta.atoms.base" in name}


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_v_keeps_its_dtype_beside_a_network_of_another(dtype, bits, tmp_path):
    model = network().to(dtype)
    x = torch.randn(50, 12, dtype=dtype)
    adapted: Any = wc.adapt(model, {"0": WHITENED, "2": WHITENED}, inputs=x).eval()
    adapted[0].delta.V.data.normal_()
    wc.save(adapted, tmp_path / "a", bits=bits)
    loaded: Any = wc.load(tmp_path / "a", model).eval()
    assert loaded[0].delta.V.dtype == torch.promote_types(dtype, torch.float32)
    close: dict[str, Any] = {"rtol": 0.1, "atol": 0.1} if bits else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(loaded(x), adapted(x), **close)


def test_split_modules_quantised_layers_and_twins_come_back(tmp_path):
    torch.manual_seed(0)
    tied = nn.ModuleDict({"lstm": nn.LSTM(12, 8), "a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    tied["a"].weight = tied["b"].weight
    adapted: Any = wc.adapt(tied, {"*": wc.Rule(d.RandomGaussian(), n_atoms=2)}, free=["bias"])
    for p in adapted.parameters():
        if p.requires_grad:
            p.data.normal_()
    wc.save(adapted, tmp_path / "a")
    loaded: Any = wc.load(tmp_path / "a", tied)
    x = torch.randn(5, 3, 12)
    assert torch.equal(loaded["lstm"](x)[0], adapted["lstm"](x)[0])
    assert loaded["a"].delta.V is loaded["b"].delta.V
    assert torch.equal(loaded["b"](x[..., :8]), adapted["b"](x[..., :8]))


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_another_network_is_told_how_far_it_is(saved, share, refuses):
    model, _, folder = saved
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(2)
    frozen = [p for name, p in other.named_parameters() if name[0] in "02"]
    changes = [torch.randn(p.shape, generator=generator) for p in frozen]
    size = torch.cat([p.flatten() for p in frozen]).norm()
    scale = share * size / torch.cat([c.flatten() for c in changes]).norm()
    with torch.no_grad():
        for p, change in zip(frozen, changes, strict=True):
            p.add_(scale * change)
    with pytest.raises(wc.FormatError, match="an adapter of another network") as raised:
        wc.load(folder, other)
    (told,) = map(float, re.findall(r"about (\S+) of its norm", str(raised.value)))
    assert told == pytest.approx(share, rel=0.4)


def test_another_dtype_another_size_and_another_layer_are_refused(saved, refuses):
    model, adapted, folder = saved
    half = copy.deepcopy(model).bfloat16()
    with refuses(half, r"is \{'bfloat16': 4\}, not \{'float32': 4\}"):
        wc.load(folder, half)
    wider = network()
    wider[0] = nn.Linear(13, 16)
    with refuses(wider, "saved with 12 inputs and 16 units, the model has 13 and 16"):
        wc.load(folder, wider)
    with refuses(nn.Sequential(nn.ReLU()), "the model has no dense layer '0'"):
        wc.load(folder, nn.Sequential(nn.ReLU()))
    with refuses(adapted, "no dense layer '0'"):
        wc.load(folder, adapted)


def test_a_frozen_layer_that_nothing_is_added_to_counts_too(tmp_path):
    model = network()
    adapted = wc.adapt(model, {"0": wc.Rule(d.DCT(), n_atoms=2)})
    wc.save(adapted, tmp_path / "a")
    wc.load(tmp_path / "a", model)
    with torch.no_grad():
        model[3].bias[0] += 1e-6
    with pytest.raises(wc.FormatError, match="another network"):
        wc.load(tmp_path / "a", model)


def test_the_digest_is_of_values_and_their_order():
    model = wc.adapt(network(), {"0": wc.Rule(d.DCT(), n_atoms=2)})
    one = origin_of(model, {})
    assert origin_of(copy.deepcopy(model), {}) == one
    swapped: Any = copy.deepcopy(model)
    swapped[2].weight.data = swapped[2].weight.data.flip(0)
    two = origin_of(swapped, {})
    assert two.digest != one.digest
    assert two.norm == pytest.approx(one.norm)
    with pytest.raises(ValueError, match="64 finite sums, not 1"):
        type(one)("0", 1.0, (1.0,), {}, {})
