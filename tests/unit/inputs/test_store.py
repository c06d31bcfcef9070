"""Store: what is put comes back as it was, from memory or from a file, and copies are one's own."""

from __future__ import annotations

import pytest
import torch

from weightcast.inputs.store import Store


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4),
        torch.arange(12.0).view(3, 4).t(),
        torch.arange(6, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.bfloat16) / 3,
        torch.zeros(0, 4),
        torch.tensor(2.5),
        torch.arange(1000.0)[:3],
    ],
    ids=str,
)
def test_what_is_put_comes_back_and_may_be_written_into(tensor, kept_bytes):
    store, original = Store(kept_bytes), tensor.clone()
    first, second = (store.put(t, "owner") for t in (tensor, tensor + 1))
    for _ in range(2):
        found = first()
        assert found.dtype == original.dtype
        assert torch.equal(found, original)
        found.zero_()
    assert torch.equal(second(), original + 1)
    store.close()


def test_what_is_changed_after_it_was_put_is_kept_as_it_was():
    tensor = torch.ones(3)
    read = Store(2**20).put(tensor, "owner")
    tensor += 1
    assert torch.equal(read(), torch.ones(3))


def test_room_is_free_again_once_an_owner_is_dropped():
    store = Store(100)
    store.put(torch.zeros(20), "a")
    store.drop("a")
    store.put(torch.zeros(20), "b")
    assert not store._files
    store.put(torch.zeros(20), "c")
    file = store._files["c"]
    store.close()
    assert file.closed
