"""Constants: treated by torch as buffers are, but not listed by the network that DDP wraps."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

import weightcast as wc
from weightcast.dictionaries.constants import Constants, named_constants


class Holder(Constants):
    """One of each kind, as constants."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("running", torch.zeros(2))
        self.register_constant("U", torch.arange(6.0).view(2, 3))
        self.register_constant("chosen", torch.tensor([2, 0]))
        self.register_constant("absent", None)
        self.register_constant("like", torch.zeros(0), persistent=False)

    def forward(self, x):
        return x @ self.U[:, self.chosen] * self.weight


class Plain(nn.Module):
    """The same as buffers: what torch does to it is right."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("U", torch.arange(6.0).view(2, 3))
        self.register_buffer("chosen", torch.tensor([2, 0]))
        self.register_buffer("absent", None)
        self.register_buffer("like", torch.zeros(0), persistent=False)

    forward = Holder.forward


def both():
    return nn.Sequential(Holder()), nn.Sequential(Plain())


def describe(module):
    tensors = {name: getattr(module, name) for name in ("weight", "running", "U", "chosen", "like")}
    return {
        name: (t.dtype, t.device.type, t.is_shared(), None if t.is_meta else t.tolist())
        for name, t in tensors.items()
    }


CHANGES = {
    "to dtype": lambda m: m.to(torch.float64),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "to meta": lambda m: m.to("meta"),
    "share_memory": lambda m: m.share_memory(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "requires_grad": lambda m: m.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_reach_constants_as_they_reach_buffers(change):
    ours, theirs = (CHANGES[change](model) for model in both())
    assert describe(ours[0]) == describe(theirs[0])
    assert ours[0].absent is None
    assert [n for n, _ in ours.named_buffers()] == ["0.running"]  # what DDP sees
    if change != "to meta":
        x = torch.ones(1, 2, dtype=ours[0].U.dtype)
        assert torch.equal(ours(x), theirs(x))


def test_to_empty_makes_room_on_the_device():
    ours = nn.Sequential(Holder()).to("meta").to_empty(device="cpu")
    assert {t.device.type for t in ours.state_dict().values()} == {"cpu"}
    ours.load_state_dict(nn.Sequential(Holder()).state_dict())
    assert describe(ours[0]) == describe(Holder())


def test_what_fails_inside_leaves_constants_in_place():
    holder = Holder()

    def fail(tensor):
        raise MemoryError

    with pytest.raises(MemoryError):
        holder._apply(fail)
    assert describe(holder) == describe(Holder())
    assert [n for n, _ in nn.Sequential(holder).named_buffers()] == ["0.running"]
    assert holder._non_persistent_buffers_set == Holder()._non_persistent_buffers_set


@pytest.mark.parametrize("keep_vars", [False, True])
def test_state_dicts_have_the_keys_and_the_order_of_buffers(keep_vars):
    ours, theirs = (model.state_dict(keep_vars=keep_vars) for model in both())
    assert list(ours) == list(theirs) == ["0.weight", "0.running", "0.U", "0.chosen"]
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor)


@pytest.mark.parametrize("assign", [False, True])
def test_loading_fills_constants(assign):
    file = io.BytesIO()
    torch.save(
        {
            name: t + 1 if t.is_floating_point() else 1 - t
            for name, t in both()[1].state_dict().items()
        },
        file,
    )
    for model in both():
        file.seek(0)
        model.load_state_dict(torch.load(file, weights_only=True), assign=assign)
        assert model[0].U.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert model[0].chosen.tolist() == [-1, 1]
        assert "U" not in dict(model[0].named_parameters())
    assert [n for n, _ in named_constants(nn.Sequential(Holder()))] == ["0.U", "0.chosen", "0.like"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("0.U"),
        lambda state: state.update({"0.absent": torch.zeros(1)}),
        lambda state: state.update({"0.like": torch.zeros(0)}),
        lambda state: state.update({"0.V": torch.zeros(1)}),
        lambda state: state.update({"0.U": torch.zeros(3, 2)}),
        lambda state: state.update({"0.chosen": [2, 0]}),
    ],
    ids=["missing", "None here", "not persistent", "unknown", "shape", "no tensor"],
)
def test_loading_complains_as_torch_does(damage):
    messages = []
    for model in both():
        state = dict(model.state_dict())
        damage(state)
        with pytest.raises(RuntimeError) as raised:
            model.load_state_dict(state)
        messages.append(str(raised.value))
        kept = model.load_state_dict({}, strict=False)
        assert kept.missing_keys == ["0.weight", "0.running", "0.U", "0.chosen"]
    assert messages[0] == messages[1]


def test_the_future_way_of_converting_modules(monkeypatch):
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    ours, theirs = (model.to(torch.float64) for model in both())
    assert describe(ours[0]) == describe(theirs[0])
    ours.load_state_dict(nn.Sequential(Plain()).state_dict())
    assert ours[0].U.dtype == torch.float64


def test_a_module_lists_its_own_constants_and_the_network_above_does_not():
    holder = Holder()
    model = nn.Sequential(holder, nn.BatchNorm1d(2))
    assert [n for n, _ in holder.named_buffers(recurse=False)] == ["running", "U", "chosen", "like"]
    assert [n for n, _ in nn.Sequential(holder).named_buffers()] == ["0.running"]
    assert len(list(model.buffers())) == 1 + 3
    assert [n for n, _ in named_constants(model)] == ["0.U", "0.chosen", "0.like"]


def converted():
    rules = {
        "0": wc.Rule(wc.dictionaries.Kernel(), 0.25, 1, (4, 4)),
        "1": wc.Rule(wc.dictionaries.Covariance(), 0.25),
    }
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    return wc.convert(model, rules, inputs=torch.randn(50, 16))


def test_a_converted_network_shows_no_buffers():
    model = converted()
    assert list(model.buffers()) == []
    names = {name for name, _ in named_constants(model, persistent=True)}
    assert "0.atoms.indices" in names
    assert "0.atoms.base.factor_0" in {n for n, _ in named_constants(model)} - names
    assert names | {n for n, _ in model.named_parameters()} == set(model.state_dict())


def test_exported_and_functional_networks_keep_their_dictionaries():
    model, x = converted(), torch.randn(3, 16)
    y = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), y)
    state, indices = model.state_dict(), model[0].atoms.indices
    assert torch.equal(functional_call(model, {k: t.clone() for k, t in state.items()}, (x,)), y)
    assert model[0].atoms.indices is indices  # the call gave its tensors back


@pytest.mark.parametrize("assign", [False, True])
def test_networks_are_built_on_meta_and_filled_from_a_state_dict(assign):
    model, x = converted(), torch.randn(3, 16)
    assert all(
        layer.atoms.stacked is not None for layer in model
    )  # what follows from the others is made anew
    empty = copy.deepcopy(model).to("meta")
    if not assign:
        empty = empty.to_empty(device="cpu")
        for _, constant in named_constants(empty):
            constant.fill_(77)  # whatever was in memory
        empty = empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict(), assign=assign)
    assert torch.equal(empty(x), model(x))


def test_what_follows_from_the_constants_is_made_from_what_was_cast():
    atoms = converted().double()[0].atoms
    assert torch.equal(atoms.stacked, atoms.dictionaries().transpose(1, 2))


def test_a_compiled_network_sees_dictionaries_that_are_loaded_later():
    model, other, x = converted(), converted(), torch.randn(3, 16)
    doubled = {k: 2 * t if "mixing" in k else t for k, t in model.state_dict().items()}
    other.load_state_dict(doubled)
    assert not torch.allclose(other(x), model(x))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(compiled(x), other(x))


def test_old_data_parallel_copies_are_refused():
    with pytest.raises(ValueError, match="use DistributedDataParallel"):
        converted()[0].atoms._replicate_for_data_parallel()


def test_broadcasting_needs_processes():
    with pytest.raises(RuntimeError, match="init_process_group first"):
        wc.broadcast_constants(converted())


def test_a_state_dict_leaves_constants_where_they_are_while_it_is_made():
    """Another thread may save the same network meanwhile."""
    holder = Holder()

    class Watching(dict):
        def __setitem__(self, name, value):
            assert list(holder.state_dict()) == list(Plain().state_dict())
            super().__setitem__(name, value)

    found = Watching()
    holder._save_to_state_dict(found, "", False)
    assert list(found) == list(Plain().state_dict())
