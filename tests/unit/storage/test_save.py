"""save and load: bit-equal, small, and in other dtypes and threads than they were saved in."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import weightcast as wc
from tests.contract.table import DICTIONARIES, make_dictionary
from tests.saved_folders import X, make_dense, make_model, save_quietly
from weightcast.storage import saved_bytes


@pytest.mark.parametrize("bases", ["rebuild", "store"])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_loaded_model_is_bit_equal(name, bases, tmp_path):
    model = make_model(name).eval()
    save_quietly(model, tmp_path / "model", bases=bases)
    dense = make_dense().eval()
    before = {key: t.clone() for key, t in dense.state_dict().items()}
    loaded = wc.load(tmp_path / "model", dense)
    assert torch.equal(loaded(X), model(X))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(torch.equal(dense.state_dict()[key], before[key]) for key in before)
    # and once more: what was loaded can be saved
    save_quietly(loaded, tmp_path / "again")
    assert torch.equal(wc.load(tmp_path / "again", dense)(X), model(X))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype, tmp_path):
    dense = make_dense().to(dtype)
    rule = wc.Rule(make_dictionary("Kernel", 24), 0.3, 3, (4, 6))
    model = wc.convert(dense, {"0": rule, "2": rule}).eval()
    save_quietly(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", dense).eval()
    assert torch.equal(loaded(X.to(dtype)), model(X.to(dtype)))


def test_convolutions_and_single_layers(tmp_path):
    dense = nn.Conv2d(2, 6, 3, padding="same", groups=2)
    model = wc.convert(dense, {"": wc.Rule(make_dictionary("DCT", 9), 0.5, 2)})
    save_quietly(model, tmp_path / "model")
    x = torch.randn(2, 2, 7, 7)
    assert torch.equal(wc.load(tmp_path / "model", dense)(x), model(x))


@pytest.mark.parametrize("bases", ["rebuild", "store"])
def test_mixing_in_blocks(bases, tmp_path):
    dense = nn.Conv2d(64, 6, 3)
    model = wc.convert(dense, {"": wc.Rule(make_dictionary("Kernel", 576), 300 / 576, 3)})
    assert model.atoms.mixing.shape == (3, 64, 5, 5)
    save_quietly(model, tmp_path / "model", bases=bases)
    x = torch.randn(2, 64, 5, 5)
    loaded = wc.load(tmp_path / "model", dense)
    assert torch.equal(loaded(x), model(x))
    with torch.device("meta"):
        empty = wc.convert(nn.Conv2d(64, 6, 3), {"": model.rule}).to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(x), model(x))


def test_dense_models_too(tmp_path):
    model = make_dense().eval()
    save_quietly(model, tmp_path / "model")
    assert torch.equal(wc.load(tmp_path / "model", make_dense().eval())(X), model(X))


def test_shared_and_tied_weights_stay_so(tmp_path):
    def build() -> nn.Sequential:
        shared = nn.Linear(24, 24)
        model = nn.Sequential(shared, shared, nn.Linear(24, 24), nn.Linear(24, 24))
        model[3].weight = model[2].weight
        return model

    model = wc.convert(build(), {"0": wc.Rule(make_dictionary("DCT", 24), 0.5)})
    save_quietly(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", build())
    assert loaded[0] is loaded[1]
    assert loaded[3].weight is loaded[2].weight
    assert torch.equal(loaded(X), model(X))


@pytest.mark.parametrize("name", ["Kernel", "DCT", "RandomConnections", "Wavelet-level"])
def test_analytic_bases_are_not_stored(name, tmp_path):
    save_quietly(make_model(name), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    kept = {key for key in tensors if key.startswith("0.")}
    assert kept == {"0.V", "0.bias", "0.atoms.indices"}
    assert tensors["0.atoms.indices"].dtype == torch.uint8  # 24 inputs: a byte each will do


def test_stored_bases_are_their_factors(tmp_path):
    model = make_model("Kernel")
    wc.save(model, tmp_path / "model", bases="store")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    base = {key: tuple(t.shape) for key, t in tensors.items() if key.startswith("0.atoms.base")}
    assert base == {"0.atoms.base.factor_0": (4, 4), "0.atoms.base.factor_1": (6, 6)}
    assert not any(key.startswith("2.atoms.base") for key in tensors)  # the same base, once
    facts = json.loads((tmp_path / "model" / "weightcast.json").read_text())
    assert facts["ties"]["2.atoms.base.factor_0"] == "0.atoms.base.factor_0"
    loaded = wc.load(tmp_path / "model", make_dense())
    assert loaded[0].atoms.base is loaded[2].atoms.base


def test_stored_bases_are_taken_as_they_are(tmp_path):
    # As if this version built another dictionary from the same plan.
    model = make_model("Kernel").eval()
    model[0].atoms.base.factor_0.mul_(2)
    model[0].atoms.refresh()
    wc.save(model, tmp_path / "stored", bases="store")
    assert torch.equal(wc.load(tmp_path / "stored", make_dense().eval())(X), model(X))
    wc.save(model, tmp_path / "rebuilt")
    with pytest.raises(wc.FormatError, match=r"layer '0': the rebuilt dictionary.*bases=\"store\""):
        wc.load(tmp_path / "rebuilt", make_dense())


def test_an_unknown_word_for_bases_is_refused(tmp_path):
    with pytest.raises(ValueError, match="bases is 'stored': take 'rebuild' or 'store'"):
        wc.save(make_dense(), tmp_path / "model", bases="stored")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, torch.uint8), (256, torch.int16), (32767, torch.int16), (32768, torch.int32)],
)
def test_indices_take_the_smallest_integers_that_hold_them(largest, dtype, tmp_path):
    dense = nn.Linear(40_000, 2)
    rule = wc.Rule(wc.dictionaries.RandomConnections(), 2 / 40_000)
    model = wc.convert(dense, {"": rule})
    model.atoms.indices[:] = torch.tensor([3, largest])
    wc.save(model, tmp_path / "model")
    assert load_file(tmp_path / "model" / "model.safetensors")["atoms.indices"].dtype == dtype
    loaded = wc.load(tmp_path / "model", dense)
    assert torch.equal(loaded.atoms.indices, model.atoms.indices)


def test_five_percent_of_the_weights_take_little_more_than_five_percent_of_the_bytes(tmp_path):
    dense = nn.Sequential(
        nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10)
    )
    kernel = wc.kernels.SquaredExponential(length_scale=3.0)
    plan = {
        "0": wc.Rule(wc.dictionaries.LocalKernel(kernel), 0.05, 20, (28, 28)),
        "2": wc.Rule(wc.dictionaries.RandomConnections(), 0.05, 20),
    }
    wc.save(wc.convert(dense, plan), tmp_path / "model")
    save_file(dict(dense[:4].state_dict()), tmp_path / "dense")
    wc.save(dense[4], tmp_path / "classifier")
    predicted = saved_bytes(tmp_path / "model") - dense[4].weight.nbytes - dense[4].bias.nbytes
    assert predicted <= 0.055 * (tmp_path / "dense").stat().st_size


def test_a_model_that_grew_is_saved_with_a_warning(tmp_path):
    model = make_model("Covariance")
    with pytest.warns(UserWarning, match=r"take [\d,]+ bytes in .* the dense ones would"):
        wc.save(model, tmp_path / "model")
    wc.load(tmp_path / "model", make_dense())


def test_single_precision_loads_into_half_and_on_other_threads(tmp_path):
    model = make_model("LocalKernel").eval()
    wc.save(model, tmp_path / "model")
    half = wc.load(tmp_path / "model", make_dense().eval().bfloat16())
    assert {t.dtype for t in half.state_dict().values() if t.is_floating_point()} == {
        torch.bfloat16
    }
    torch.testing.assert_close(half(X.bfloat16()).float(), model(X), atol=0.1, rtol=0.1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        loaded = wc.load(tmp_path / "model", make_dense().eval())
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(loaded(X), model(X))


def test_a_diverged_model_is_saved_and_loaded_as_it_is(tmp_path):
    model = make_model()
    with torch.no_grad():
        model[0].V[1, 2] = torch.nan
    wc.save(model, tmp_path / "model")
    torch.testing.assert_close(
        wc.load(tmp_path / "model", make_dense())[0].V, model[0].V, equal_nan=True, rtol=0, atol=0
    )


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(Stateful(2, 2)), "'0._extra_state' in the model's state is a dict"),
        (nn.Linear(2, 2, device="meta"), "'weight' is on the meta device and holds no values"),
    ],
)
def test_what_these_files_cannot_hold_is_refused(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        wc.save(model, tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_rule_that_is_too_long_is_refused(tmp_path):
    rule = wc.Rule(Wordy(words="word " * 30_000), 0.5)
    model = wc.convert(nn.Linear(12, 6), {"": rule})
    with pytest.raises(ValueError, match=r"take \d+ bytes of JSON, and no more than"):
        wc.save(model, tmp_path / "model")


def test_the_folder_is_json_and_safetensors(tmp_path):
    save_quietly(make_model(), tmp_path / "model")
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {"weightcast.json", "model.safetensors"}
    facts = json.loads((tmp_path / "model" / "weightcast.json").read_text())
    assert facts["schema"] == 2
    assert facts["counts"]["learned"] == sum(p.numel() for p in make_model().parameters())
    plan = wc.Plan.from_dict(facts["plan"])
    assert plan.rules == {name: make_model()[int(name)].rule for name in ("0", "2")}
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~umask


@pytest.mark.usefixtures("unmoved_randomness")
def test_saving_and_loading_leave_the_global_random_state_alone(tmp_path):
    state = torch.get_rng_state()
    model, dense = make_model(), make_dense()
    torch.set_rng_state(state)
    save_quietly(model, tmp_path / "model")
    wc.load(tmp_path / "model", dense)


@dataclass(frozen=True)
class Wordy(wc.dictionaries.DCT):
    """A dictionary with a field that is too long for a plan."""

    words: str = ""


@dataclass(frozen=True)
class Everything(wc.dictionaries.Dictionary):
    """Somebody's own dictionary on a base that is not dense; files cannot rebuild it."""

    def build(self, site):
        base = wc.dictionaries.KroneckerBase(
            [torch.eye(site.n_visible, dtype=torch.float64).roll(1, 0)]
        )
        indices = torch.arange(site.n_atoms).repeat(site.columns, 1)
        return wc.dictionaries.Atoms(base, indices)


def test_a_dictionary_of_ones_own_is_stored_whole(tmp_path):
    dense = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 2))
    model = wc.convert(dense, {"0": wc.Rule(Everything(), 0.5, columns=2)})
    save_quietly(model, tmp_path / "m")
    loaded = wc.load(tmp_path / "m", dense)
    x = torch.randn(3, 12)
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_into_single(tmp_path, dtype):
    dense = nn.Sequential(nn.Linear(36, 6), nn.Linear(6, 2))
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.5, columns=2, grid=(6, 6))
    model = wc.convert(dense, {"0": rule}).to(dtype)
    save_quietly(model, tmp_path / "m")
    loaded = wc.load(tmp_path / "m", dense)
    assert loaded[0].V.dtype == torch.float32
    torch.testing.assert_close(loaded[0].V, model[0].V.float())


def test_many_small_layers_take_more_words_than_weights(tmp_path):
    dense = nn.Sequential(*(nn.Linear(8, 8) for _ in range(60)))
    model = wc.convert(dense, {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)})
    with pytest.warns(UserWarning, match=r"bytes in this folder, [\d,]+ of them rules and names"):
        wc.save(model, tmp_path / "model")
