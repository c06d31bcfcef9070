"""load refuses what is damaged, hostile or for another model, with a FormatError that says why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.contract.table import make_dictionary
from tests.saved_folders import (
    assert_refused,
    edit_facts,
    edit_tensors,
    make_dense,
    make_model,
)
from weightcast.storage import checkpoint_bytes


@pytest.mark.parametrize("size", [0, 5, 8, 100, -10, -1])
def test_truncated_tensors(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert_refused(folder, "is damaged")


def test_changes_that_a_checksum_shows(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert_refused(folder, r"is damaged: '[\w.]+' was changed after it was saved \(checksum\)")
    text = (folder / "weightcast.json").read_text()
    (folder / "weightcast.json").write_text(text.replace('"ridge": 0.1', '"ridge": 0.2'))
    assert_refused(
        folder, r"is damaged: weightcast.json was changed after it was saved \(checksum\)"
    )


def _rule(facts):
    return facts["plan"]["rules"]["0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("layers"), "needs 'layers'"),
        (lambda f: f.pop("ties"), "needs 'ties'"),
        (lambda f: f.pop("plan"), "plan: 'rules' must map"),
        (lambda f: f.update(layers=[]), "layers"),
        (lambda f: f.update(plan=3), "plan: expected a mapping"),
        (lambda f: f.update(os="rm"), "Facts has no field 'os'"),
        (lambda f: f["plan"]["rules"].pop("0"), r"plan and layers differ in \['0'\]"),
        (lambda f: f["plan"]["rules"].update({"0": None}), "plan and layers differ"),
        (lambda f: f["layers"]["0"].pop("fingerprint"), "neither a base nor a fingerprint"),
        (lambda f: f["layers"]["0"].update(fingerprint=[1.0, 2.0]), "fingerprint"),
        (lambda f: f["layers"]["0"]["fingerprint"].update(sums=[1.0]), "fingerprint"),
        (lambda f: f["layers"]["0"]["fingerprint"].update(sums=[1e3] * 4), "rebuilt dictionary"),
        (lambda f: f["layers"]["0"].update(n_units=10**9), r"with 24 inputs and 1000000000 units"),
        (lambda f: f["layers"]["0"].update(n_visible=10**30), "was saved with 1000000000"),
        (lambda f: f["layers"]["0"].update(n_visible=12, n_units=48), "12 inputs and 48 units"),
        (lambda f: f["layers"]["0"].update(n_visible=0), "was saved with 0 inputs"),
        (lambda f: f["layers"]["0"].update(layer="PredictedConv1d"), "as a 'PredictedConv1d'"),
        (lambda f: f["layers"]["0"].update(dtype="nn"), "cannot be read: layer '0'"),
        (lambda f: _rule(f).update(fracton=1), "did you mean 'fraction'"),
        (lambda f: _rule(f).update(columns=0), "columns is 0"),
        (lambda f: _rule(f).update(columns=2), r"indices \(3, 7\).*its rule makes them \(2, 7\)"),
        (lambda f: _rule(f).update(columns=10**9), "1000000000 columns for 24 units"),
        (lambda f: _rule(f).update(fraction=0.9), r"V \(7, 24\), its rule makes it"),
        (lambda f: _rule(f).update(fraction=1e300), "fraction is 1e"),
        (lambda f: _rule(f)["grid"].update(shape=[10**6, 10**6]), "the grid"),
        (lambda f: _rule(f)["grid"].update(shape=[24] + [1] * 500), "a grid of 501 axes"),
        (lambda f: _rule(f)["dictionary"].update(kind="Kernal"), "'Kernel'"),
        (lambda f: _rule(f)["dictionary"].update(kind="Kern" * 20_000), "there is no Dictionary"),
        (lambda f: _rule(f)["dictionary"].update(kind=["Kernel"]), "there is no Dictionary"),
        (lambda f: _rule(f).update(dictionary={"kind": "os.system"}), "no Dictionary 'os.system'"),
        (lambda f: _rule(f)["dictionary"].update(ridge=0.2), "fingerprint"),
        (lambda f: _rule(f)["dictionary"]["kernel"].update(length_scale=1.301), "fingerprint"),
        (lambda f: f["layers"].update({"9": f["layers"]["0"]}), "plan and layers differ"),
        (lambda f: (f["layers"].update({"9": f["layers"]["0"]}),
                    f["plan"]["rules"].update({"9": _rule(f)})), "no dense layer '9'"),
        (lambda f: f["ties"].update({"0.bias": "nothing"}), "holds no tensor 'nothing'"),
        (lambda f: f["ties"].update({"../../etc": "0.bias"}), r"unexpected \['../../etc'\]"),
        (lambda f: f["tensors"].update({"/etc/passwd": "0"}), r"differ in \['/etc/passwd'\]"),
        (lambda f: f["tensors"].update({"0.V": "12345678"}), "'0.V' was changed"),
        (lambda f: f["tensors"].pop("0.V"), "differ in"),
    ],
)  # fmt: skip
def test_damaged_facts(folder, change, message):
    edit_facts(folder, change)
    assert_refused(folder, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"] + 100}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].to(torch.int16) - 100}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].float()}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"][:, :3].contiguous()}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].flatten()}),
        # The same atoms in another order are another dictionary.
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].flip(1).contiguous()}),
        lambda t: t.update({"0.atoms.indices": t["0.atoms.indices"].flip(0).contiguous()}),
        lambda t: t.pop("0.atoms.indices"),
        lambda t: t.pop("0.V"),
        lambda t: t.pop("4.bias"),
        lambda t: t.update({"0.V": t["0.V"][:3].contiguous()}),
        lambda t: t.update({"0.V": t["0.V"].to(torch.int64)}),
        lambda t: t.update({"1.num_batches_tracked": torch.tensor(1.0)}),
        lambda t: t.update({"extra": torch.zeros(2)}),
    ],
)
def test_damaged_tensors(folder, change):
    edit_tensors(folder, change)
    assert_refused(folder, None)


@pytest.mark.parametrize(
    "dense",
    [
        nn.Sequential(nn.Linear(24, 24)),
        nn.Sequential(*make_dense(), nn.Linear(5, 5)),
        nn.Sequential(nn.Linear(25, 24), *list(make_dense())[1:]),
        nn.Sequential(nn.Linear(24, 23), *list(make_dense())[1:]),
        nn.Sequential(nn.Linear(24, 24, bias=False), *list(make_dense())[1:]),
        nn.Sequential(nn.ReLU(), *list(make_dense())[1:]),
    ],
)
def test_another_model(folder, dense, refuses):
    with refuses(dense):
        wc.load(folder, dense)


def test_a_rule_that_is_too_heavy_is_built_for_those_who_trust_it(folder, monkeypatch):
    monkeypatch.setattr("weightcast.storage.allowance.ALLOWED", 0)
    monkeypatch.setattr("weightcast.storage.allowance.ALLOWED_PER_WEIGHT", 10)
    assert_refused(folder, r"layer '0' takes about .* multiply-adds.*trusted=True.*bases=\"store\"")
    wc.load(folder, make_dense(), trusted=True)
    wc.save(make_model(), folder, bases="store")
    wc.load(folder, make_dense())


@pytest.mark.parametrize("error", [MemoryError, ImportError, AssertionError])
def test_whatever_building_raises_is_a_format_error(folder, error, monkeypatch):
    def build(*_):
        raise error("no pywt")

    monkeypatch.setattr(wc.dictionaries.Kernel, "build", build)
    assert_refused(folder, "cannot be read: layer '0': no pywt")


@pytest.mark.parametrize("key", ["re:(x+x+)+y", "re:(", "*", "9"])
def test_keys_of_the_plan_that_are_no_layers(folder, key, monkeypatch):
    monkeypatch.setattr(
        "weightcast.plan.keys.re", None
    )  # a stranger's expression would keep it busy
    edit_facts(folder, lambda f: f["plan"]["rules"].update({key: _rule(f)}))
    assert_refused(folder, "plan and layers differ in")
    edit_facts(folder, lambda f: f["layers"].update({key: f["layers"]["0"]}))
    assert_refused(folder, "plan and layers differ in|no dense layer")


@pytest.mark.parametrize("odd", ["\ud800", "\x1b[31m", "\n", "x" * 10_000])
def test_messages_are_short_and_can_be_printed(folder, odd):
    text = (folder / "weightcast.json").read_bytes()
    for change in (
        lambda f: f["layers"]["0"].update(layer=odd),
        lambda f: f["layers"]["0"].update(dtype=odd),
        lambda f: _rule(f).update({odd: 3}),
        lambda f: _rule(f)["dictionary"].update(kernel={"kind": "SquaredExponential", odd: 1}),
        lambda f: _rule(f).update(dictionary={"kind": odd}),
        lambda f: f["ties"].update({"0.V": odd}),
        lambda f: f["ties"].update({odd: "0.V"}),
        lambda f: f["tensors"].update({odd: "0"}),
        lambda f: f["layers"].update({odd: f["layers"]["0"]}),
        lambda f: f.update(schema=odd),
        lambda f: f.update(plan={odd: 1}),
    ):
        (folder / "weightcast.json").write_bytes(text)
        edit_facts(folder, change)
        with pytest.raises(wc.FormatError) as raised:
            wc.load(folder, make_dense())
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 2000


def test_loading_into_a_predicted_model_is_refused(folder, refuses):
    model = make_model()
    with refuses(model, "no dense layer '0'"):
        wc.load(folder, model)


class Tied(nn.Module):
    """Two predicted layers and two dense ones, which share their weights or do not."""

    def __init__(self, tied: bool, device: str | None = None) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(24, 24, device=device) for _ in range(4))
        if tied:
            self.b.weight, self.d.weight = self.a.weight, self.c.weight


TIED_PLAN = {
    "a": wc.Rule(make_dictionary("Kernel", 24), 0.3, 3, (4, 6)),
    "b": wc.Rule(make_dictionary("Kernel", 24), 0.3, 3, (4, 6)),
    "*": None,
}


def test_weights_that_a_tied_model_cannot_hold(tmp_path, refuses):
    wc.save(wc.convert(Tied(False), TIED_PLAN), tmp_path / "model")
    dense = Tied(True)
    with refuses(dense, "'b.V' is a tensor of its own.* the same as 'a.V'"):
        wc.load(tmp_path / "model", dense)
    wc.save(Tied(False), tmp_path / "dense")
    with refuses(dense, "'b.weight' is a tensor of its own.* the same as 'a.weight'"):
        wc.load(tmp_path / "dense", dense)


def test_an_untied_model_may_hold_the_same_twice(tmp_path):
    model = wc.convert(Tied(True), TIED_PLAN)
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", Tied(False))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_model_without_values(folder):
    with torch.device("meta"):
        dense = make_dense()
    with pytest.raises(wc.FormatError, match=r"'0\.weight' is on meta .*to_empty"):
        wc.load(folder, dense)


class Extra(nn.Linear):
    """A layer with state beside its tensors."""

    def get_extra_state(self):
        return torch.ones(3)

    def set_extra_state(self, state):
        assert state is not None


def test_state_that_is_no_tensor_of_the_model(folder, tmp_path):
    dense = nn.Sequential(*make_dense(), Extra(5, 5))
    with pytest.raises(wc.FormatError, match=r"'5\._extra_state'.*extra state"):
        wc.load(folder, dense)
    with pytest.raises(ValueError, match=r"'5\._extra_state'.*extra state"):
        wc.save(dense, tmp_path / "extra")


def test_lazy_modules(folder, tmp_path):
    dense = nn.Sequential(*make_dense(), nn.LazyLinear(5))
    message = r"'5\.weight' has no shape yet: call the model once"
    with pytest.raises(wc.FormatError, match=message):
        wc.load(folder, dense)
    for use in (lambda: wc.save(dense, tmp_path / "lazy"), lambda: checkpoint_bytes(dense)):
        with pytest.raises(ValueError, match=message):
            use()
