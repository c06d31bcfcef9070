"""Batches of every kind, and models that are called with them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import weightcast as wc
from weightcast.inputs import batches as batches_module
from weightcast.inputs.batches import MAX_BATCHES, as_batches, call, cut, on_device
from weightcast.inputs.gather import collect_rows, collect_statistics
from weightcast.inputs.replay import Replay
from weightcast.inputs.survey import survey


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        return self.fc(input=x * scale)


def test_a_layer_called_by_keyword_is_seen():
    model, x = Keyword(), torch.randn(20, 4)
    replay, generator = Replay([x], [], {}), torch.Generator()
    assert collect_statistics(model, "fc", replay, ("covariance",), generator).n_rows == 20
    assert survey(model, ["fc"], [x]).order == ["fc"]


def test_batches_of_every_kind():
    x, y = torch.randn(10, 4), torch.zeros(10)
    assert len(as_batches(x)) == 1
    assert len(as_batches([x, x])) == 2
    assert len(as_batches(b for b in (x, x, x))) == 3
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    assert len(as_batches(loader)) == 2
    model = Keyword()
    expected = model(x)
    for batch in (x, (x, y), [x, y], {"x": x}):
        assert torch.equal(call(model, batch), expected)
    assert torch.equal(call(model, {"x": x, "scale": 2.0}), model(x, 2.0))


class Endless(IterableDataset):
    def __iter__(self):
        # Not all alike: of what is constant cosines see nothing, or what rounding leaves.
        return (torch.linspace(0.0, float(i), 4) for i in itertools.count())


class Numbered(Dataset):
    """With a length, but no IndexError behind it, like many: Python itself would go on forever."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((2, 4), float(index))


@pytest.mark.parametrize(
    "endless",
    [lambda: DataLoader(Endless(), batch_size=2), lambda: itertools.repeat(torch.zeros(2, 4))],
)
def test_inputs_without_end_are_read_up_to_the_bound(endless, capsys):
    with pytest.warns(UserWarning, match=r"goes on after 1,000 batches \(0\.0 MiB\)") as warned:
        batches = as_batches(endless())
    assert len(batches) == MAX_BATCHES == 1_000
    assert len(warned) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "reading inputs: 1,000 batches of 1,000 at most"
    assert len(lines) == 10


def test_the_bound_in_bytes(monkeypatch):
    monkeypatch.setattr(batches_module, "MAX_BYTES", 1_000)
    batch = {"x": torch.zeros(10, 4), "more": [torch.zeros(10, dtype=torch.int64)]}  # 240 bytes
    with pytest.warns(UserWarning, match="goes on after 5 batches"):
        assert len(as_batches(itertools.repeat(batch))) == 5


@pytest.mark.parametrize("n_batches", [3, MAX_BATCHES])
def test_what_ends_in_time_says_nothing(n_batches, capsys):
    assert len(as_batches((torch.zeros(1) for _ in range(n_batches)), progress=False)) == n_batches
    a_list = [torch.zeros(1)] * (MAX_BATCHES + n_batches)
    assert len(as_batches(a_list)) == len(a_list)
    assert capsys.readouterr().err == ""


def _mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 2)
    )


PLAN = {"re:[02]": wc.Rule(wc.dictionaries.Covariance(), 0.5), "*": None}
VERBS = {
    "suggest": lambda inputs: wc.suggest(_mlp(), 0.5, inputs),
    "convert": lambda inputs: wc.convert(_mlp(), PLAN, inputs),
    "compress": lambda inputs: wc.compress(_mlp(), PLAN, inputs),
    "probe": lambda inputs: wc.probe(_mlp(), (0.5,), inputs=inputs),
    "pretrain": lambda inputs: wc.pretrain(
        wc.convert(_mlp(), {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)}), inputs, epochs=1
    ),
    "verify": lambda inputs: wc.verify(
        wc.convert(_mlp(), {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)}), inputs
    ),
    "compression_report": lambda inputs: wc.compression_report(
        _mlp(), wc.convert(_mlp(), {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)}), inputs
    ),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_no_verb_reads_forever(verb, monkeypatch):
    monkeypatch.setattr(batches_module, "MAX_BATCHES", 20)
    with pytest.warns(UserWarning, match="inputs has no length and goes on after 20 batches"):
        verb(DataLoader(Endless(), batch_size=4))


def test_a_data_set_ends_where_its_length_says():
    assert [batch[0, 0].item() for batch in as_batches(Numbered())] == [0, 1, 2]


def test_an_error_of_the_inputs_is_theirs():
    class Broken(Numbered):
        def __getitem__(self, index):
            raise TypeError("no such picture")

    with pytest.raises(TypeError, match="no such picture"):
        as_batches(Broken())


def test_a_generator_serves_every_pass_of_a_verb_and_then_says_that_it_is_used_up():
    x, model = torch.randn(40, 4), _mlp()
    once = (batch for batch in x.split(10))
    several = wc.compress(model, PLAN, list(x.split(10)), progress=False)
    one_shot = wc.compress(model, PLAN, once, progress=False)
    assert torch.equal(several(x), one_shot(x))
    used_up = "inputs is a generator that gave nothing: it was used up before; pass a list or"
    with pytest.raises(ValueError, match=used_up):
        wc.convert(model, PLAN, once)


@pytest.mark.parametrize("empty", [[], ()])
def test_no_batch_at_all_is_refused(empty):
    with pytest.raises(ValueError, match="inputs is empty: pass at least one batch"):
        as_batches(empty)


def test_a_model_that_changes_its_input_leaves_the_batches_alone():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, more=None):
            return self.fc(x.add_(1) if more is None else more["list"][0].add_(1))

    model, x = InPlace(), torch.randn(20, 4)
    batches = [x.clone(), (x.clone(), None), {"x": x, "more": {"list": [x.clone()]}}]
    rows = collect_rows(model, "fc", Replay(batches, [], {}), 100, torch.Generator())
    assert torch.equal(rows, (x + 1).repeat(3, 1))
    assert torch.equal(batches[0], x)
    assert torch.equal(batches[1][0], x)
    assert torch.equal(batches[2]["more"]["list"][0], x)


def test_a_single_tensor_is_cut_into_batches():
    x = torch.arange(250.0).view(250, 1)
    assert [len(part) for part in cut(x)] == [100, 100, 50]
    assert torch.equal(torch.cat(cut(x)), x)
    assert cut(x[:0]) == []
    assert cut(batches := [x]) is batches


def test_a_batch_goes_to_a_device_in_every_form():
    batch = on_device({"a": torch.ones(2), "n": 3, "more": [torch.ones(1)]}, torch.device("meta"))
    assert (batch["a"].device.type, batch["more"][0].device.type, batch["n"]) == ("meta", "meta", 3)
    pair = on_device((torch.ones(2), torch.ones(2)), torch.device("meta"))
    assert {x.device.type for x in pair} == {"meta"}
