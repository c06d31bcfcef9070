"""save and load: bit-equal, replaced whole, and refusals of what is damaged."""

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

X = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))


def _dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)
    )


def _model(name: str = "Kernel", **options) -> nn.Module:
    rule = wc.Rule(make_dictionary(name, 24), 0.3, 3, (4, 6))
    model = wc.convert(_dense(), {"0": rule, "2": rule, "*": None}, inputs=X, **options)
    for parameter in model.parameters():  # as if it had been trained
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model(X)
    return model


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_loaded_model_is_bit_equal(name, tmp_path):
    model = _model(name).eval()
    wc.save(model, tmp_path / "model")
    dense = _dense().eval()
    before = {key: t.clone() for key, t in dense.state_dict().items()}
    loaded = wc.load(tmp_path / "model", dense)
    assert torch.equal(loaded(X), model(X))
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(torch.equal(dense.state_dict()[key], before[key]) for key in before)
    # and once more: what was loaded can be saved
    wc.save(loaded, tmp_path / "again")
    assert torch.equal(wc.load(tmp_path / "again", dense)(X), model(X))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype, tmp_path):
    dense = _dense().to(dtype)
    rule = wc.Rule(make_dictionary("Kernel", 24), 0.3, 3, (4, 6))
    model = wc.convert(dense, {"0": rule, "2": rule}).eval()
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", dense).eval()
    assert torch.equal(loaded(X.to(dtype)), model(X.to(dtype)))


def test_convolutions_and_single_layers(tmp_path):
    dense = nn.Conv2d(2, 6, 3, padding="same", groups=2)
    model = wc.convert(dense, {"": wc.Rule(make_dictionary("DCT", 9), 0.5, 2)})
    wc.save(model, tmp_path / "model")
    x = torch.randn(2, 2, 7, 7)
    assert torch.equal(wc.load(tmp_path / "model", dense)(x), model(x))


def test_dense_models_too(tmp_path):
    model = _dense().eval()
    wc.save(model, tmp_path / "model")
    assert torch.equal(wc.load(tmp_path / "model", _dense().eval())(X), model(X))


def test_shared_and_tied_weights_stay_so(tmp_path):
    def build() -> nn.Sequential:
        shared = nn.Linear(24, 24)
        model = nn.Sequential(shared, shared, nn.Linear(24, 24), nn.Linear(24, 24))
        model[3].weight = model[2].weight
        return model

    model = wc.convert(build(), {"0": wc.Rule(make_dictionary("DCT", 24), 0.5)})
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", build())
    assert loaded[0] is loaded[1]
    assert loaded[3].weight is loaded[2].weight
    assert torch.equal(loaded(X), model(X))


@pytest.mark.parametrize("name", ["Kernel", "DCT", "RandomConnections", "Wavelet-level"])
def test_analytic_bases_are_not_stored(name, tmp_path):
    wc.save(_model(name), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    kept = {key for key in tensors if key.startswith("0.")}
    assert kept == {"0.V", "0.bias", "0.atoms.indices"}
    assert tensors["0.atoms.indices"].dtype == torch.int32


def test_the_folder_is_json_and_safetensors(tmp_path):
    wc.save(_model(), tmp_path / "model")
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert names == {"weightcast.json", "model.safetensors"}
    facts = json.loads((tmp_path / "model" / "weightcast.json").read_text())
    assert facts["schema"] == 1
    assert facts["layers"]["0"]["rule"]["dictionary"]["kind"] == "Kernel"
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o777 & ~umask


def test_saving_replaces_the_whole_folder(tmp_path):
    wc.save(_model("Covariance"), tmp_path / "model")
    (tmp_path / "model" / "stray.txt").write_text("old")
    model = _model("DCT").eval()
    wc.save(model, tmp_path / "model")
    assert not (tmp_path / "model" / "stray.txt").exists()
    assert torch.equal(wc.load(tmp_path / "model", _dense().eval())(X), model(X))
    assert {file.name for file in tmp_path.iterdir()} == {"model"}


def test_a_failed_save_leaves_the_old_folder(tmp_path, monkeypatch):
    model = _model().eval()
    wc.save(model, tmp_path / "model")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("weightcast.checkpoint.save_file", full)
    with pytest.raises(OSError, match="disk full"):
        wc.save(_model("DCT"), tmp_path / "model")
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
    assert torch.equal(wc.load(tmp_path / "model", _dense().eval())(X), model(X))


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds no weightcast\.json, so it is not replaced"):
        wc.save(_model(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="not replaced"):
        wc.save(_model(), tmp_path / "file")


@pytest.mark.usefixtures("unmoved_randomness")
def test_saving_and_loading_leave_the_global_random_state_alone(tmp_path):
    state = torch.get_rng_state()
    model, dense = _model(), _dense()
    torch.set_rng_state(state)
    wc.save(model, tmp_path / "model")
    wc.load(tmp_path / "model", dense)


@pytest.fixture
def folder(tmp_path):
    wc.save(_model(), tmp_path / "model")
    return tmp_path / "model"


def _edit(folder, change) -> None:
    facts = json.loads((folder / "weightcast.json").read_text())
    change(facts)
    (folder / "weightcast.json").write_text(json.dumps(facts))


def _refuse(folder, message: str | None) -> None:
    with pytest.raises(wc.FormatError, match=message):
        wc.load(folder, _dense())


@pytest.mark.parametrize("name", ["weightcast.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    _refuse(folder, f"is no saved model: .*{name} is missing")


def test_a_missing_folder(tmp_path):
    _refuse(tmp_path / "nowhere", "nowhere is no saved model")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    _refuse(tmp_path / "file", "is no saved model")


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "\x00\x01"])
def test_damaged_json(folder, text):
    (folder / "weightcast.json").write_text(text)
    _refuse(folder, "is damaged")


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"schema": "1"}', '{"schema": 2}'])
def test_another_schema(folder, text):
    (folder / "weightcast.json").write_text(text)
    _refuse(folder, "has schema .*reads schema 1")


@pytest.mark.parametrize("size", [0, 5, 100, -10])
def test_truncated_tensors(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    _refuse(folder, "is damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("layers"), "layers"),
        (lambda f: f.pop("ties"), "ties"),
        (lambda f: f.update(layers=[]), "garbles"),
        (lambda f: f["layers"]["0"].pop("rule"), "rule"),
        (lambda f: f["layers"]["0"].pop("fingerprint"), "fingerprint"),
        (lambda f: f["layers"]["0"].update(fingerprint=None), "weightcast.json"),
        (lambda f: f["layers"]["0"].update(fingerprint=[1.0, 2.0]), "fingerprint"),
        (lambda f: f["layers"]["0"].update(fingerprint=[1.0, 2.0, 3.0]), "layer '0'.*fingerprint"),
        (lambda f: f["layers"]["0"]["rule"].update(fracton=1), "did you mean 'fraction'"),
        (lambda f: f["layers"]["0"]["rule"].update(columns=0), "columns is 0"),
        (lambda f: f["layers"]["0"]["rule"].update(columns=2), "layer|shape|is \\("),
        (lambda f: f["layers"]["0"]["rule"].update(fraction=0.9), "layer|shape|is \\("),
        (lambda f: f["layers"]["0"]["rule"]["dictionary"].update(kind="Kernal"), "'Kernel'"),
        (lambda f: f["layers"]["0"]["rule"]["dictionary"].update(ridge=0.2), "fingerprint"),
        (lambda f: f["layers"]["0"]["rule"]["dictionary"]["kernel"].update(length_scale=1.01),
         "fingerprint"),
        (lambda f: f["layers"].update({"9": f["layers"]["0"]}), "no dense layer '9'"),
        (lambda f: f["ties"].update({"0.bias": "nothing"}), "nothing"),
    ],
)  # fmt: skip
def test_damaged_facts(folder, change, message):
    _edit(folder, change)
    _refuse(folder, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"] + 1000}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"] - 1000}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"][:, :3].contiguous()}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].flatten()}),
        # The same atoms in another order are another dictionary.
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].flip(1).contiguous()}),
        lambda t: t.pop("0.atoms.indices"),
        lambda t: t.pop("0.V"),
        lambda t: t.pop("4.bias"),
        lambda t: t.update({"0.V": t["0.V"][:3].contiguous()}),
        lambda t: t.update({"extra": torch.zeros(2)}),
    ],
)
def test_damaged_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    _refuse(folder, None)


def test_damaged_stored_bases(tmp_path):
    wc.save(_model("Covariance"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["0.atoms.base.atoms"] = tensors["0.atoms.base.atoms"][:, :-1].contiguous()
    save_file(tensors, file)
    _refuse(tmp_path / "model", None)
    del tensors["0.atoms.base.atoms"]
    save_file(tensors, file)
    _refuse(tmp_path / "model", "0.atoms.base.atoms")


@pytest.mark.parametrize(
    "dense",
    [
        nn.Sequential(nn.Linear(24, 24)),
        nn.Sequential(*_dense(), nn.Linear(5, 5)),
        nn.Sequential(nn.Linear(25, 24), *list(_dense())[1:]),
        nn.Sequential(nn.Linear(24, 23), *list(_dense())[1:]),
        nn.Sequential(nn.Linear(24, 24, bias=False), *list(_dense())[1:]),
        nn.Sequential(nn.ReLU(), *list(_dense())[1:]),
    ],
)
def test_another_model(folder, dense, refuses):
    with refuses(dense):
        wc.load(folder, dense)


def test_loading_into_a_predicted_model_is_refused(folder, refuses):
    model = _model()
    with refuses(model, "no dense layer '0'"):
        wc.load(folder, model)


def test_no_code_runs_on_loading(folder):
    # The JSON form is read as data: a class outside the known ones is a mistake, not an import.
    _edit(folder, lambda f: f["layers"]["0"]["rule"].update(dictionary={"kind": "os.system"}))
    _refuse(folder, "no Dictionary 'os.system'")


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
    wc.save(model, tmp_path / "m")
    loaded = wc.load(tmp_path / "m", dense)
    x = torch.randn(3, 12)
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_into_single(tmp_path, dtype):
    dense = nn.Sequential(nn.Linear(36, 6), nn.Linear(6, 2))
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.5, columns=2, grid=(6, 6))
    model = wc.convert(dense, {"0": rule}).to(dtype)
    wc.save(model, tmp_path / "m")
    loaded = wc.load(tmp_path / "m", dense)
    assert loaded[0].V.dtype == torch.float32
    torch.testing.assert_close(loaded[0].V, model[0].V.float())
