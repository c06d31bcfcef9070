"""Batches of every kind, and models that are called with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from weightcast.inputs.batches import as_batches, call
from weightcast.inputs.gather import collect_rows, collect_statistics
from weightcast.inputs.hooks import execution_order


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        return self.fc(input=x * scale)


def test_a_layer_called_by_keyword_is_seen():
    model, x = Keyword(), torch.randn(20, 4)
    statistics = collect_statistics(model, "fc", [x], ("covariance",))
    assert statistics.n_rows == 20
    assert list(execution_order(model, {"fc": model.fc}, x)) == ["fc"]


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


@pytest.mark.parametrize("empty", [[], (), iter(())])
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
    rows = collect_rows(model, "fc", batches, 100, torch.Generator())
    assert torch.equal(rows, (x + 1).repeat(3, 1))
    assert torch.equal(batches[0], x)
    assert torch.equal(batches[1][0], x)
    assert torch.equal(batches[2]["more"]["list"][0], x)
