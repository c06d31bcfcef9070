import errno
import json
import math
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from pytorch_lightning.plugins import TorchCheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import weightcast as wc
from weightcast import files
from weightcast.integrations import lightning as checkpoint_io
from weightcast.integrations.lightning import SafetensorsCheckpointIO

IO = SafetensorsCheckpointIO()


def round_trip(value, tmp_path):
    IO.save_checkpoint({"value": value}, tmp_path / "a.ckpt")
    return IO.load_checkpoint(tmp_path / "a.ckpt", weights_only=True)["value"]


def assert_same(a, b):
    """Equal to the last bit, types and order of keys included."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        bits = [x.flatten().contiguous().view(torch.uint8) for x in (a, b)]
        assert torch.equal(*bits)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for x, y in zip(a.values(), b.values(), strict=True):
            assert_same(x, y)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b)
    else:
        assert a == b


@pytest.mark.parametrize(
    "value",
    [
        {0: {"step": 1}, "0": {"step": 2}, (1, "a"): None, True: 3.5},
        [(), [], {}, ((0.9, 0.999), [None])],
        [0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan, 2**70, True, "ä\n\x00"],
        {"a": torch.arange(6.0).view(2, 3).t(), "a/b": torch.tensor(7), "c": torch.zeros(0, 4)},
        {"a": {"b": torch.ones(1)}, "a/b": torch.zeros(1)},
        [torch.randn(3).to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16)],
        [torch.tensor([math.nan, -0.0]), torch.tensor([True]), torch.ones(2, dtype=torch.uint8)],
    ],
)
def test_plain_data_comes_back_to_the_last_bit(value, tmp_path):
    assert_same(round_trip(value, tmp_path), value)


def test_an_optimiser_and_a_schedule_come_back(tmp_path):
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=10)
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    schedule.step()
    for state in (optimiser.state_dict(), schedule.state_dict()):
        assert_same(round_trip(state, tmp_path), state)


def test_a_state_dict_keeps_the_versions_that_torch_hangs_on_it(tmp_path):
    state = nn.BatchNorm1d(3).state_dict()
    loaded = round_trip(state, tmp_path)
    assert isinstance(loaded, OrderedDict)
    assert loaded._metadata == state._metadata
    assert loaded._metadata[""] == {"version": 2}


def test_tensors_are_held_once_under_their_paths(tmp_path):
    big = torch.randn(1000)
    value = {"a": big, "tied": big, "part": big[:10], "same part": big[:10]}
    loaded = round_trip(value, tmp_path)
    assert_same(loaded, value)
    assert loaded["tied"] is loaded["a"]
    with safe_open(tmp_path / "a.ckpt", "pt") as file:
        assert sorted(file.keys()) == ["value/a", "value/part"]
    assert (tmp_path / "a.ckpt").stat().st_size < 4 * 1010 + 1000


def test_tensors_go_where_they_are_wanted(tmp_path):
    IO.save_checkpoint({"a": torch.ones(2)}, tmp_path / "a.ckpt")
    assert IO.load_checkpoint(tmp_path / "a.ckpt", map_location="meta")["a"].is_meta


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": nn.Linear(1, 1)}, "checkpoint's value/model is a Linear, which is no plain"),
        ([1, {2: object()}], "checkpoint's value/1/2 is a object"),
        (torch.eye(3).to_sparse(), r"checkpoint's value is a tensor of .*layout torch.sparse_coo"),
        (torch.ones(1, device="meta"), "checkpoint's value is a tensor .* on meta"),
    ],
)
def test_what_is_no_plain_data_is_refused_and_named(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        round_trip(value, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(TypeError, match="leave storage_options out"):
        IO.save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})
    IO.save_checkpoint({}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="weights_only must be True"):
        IO.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    with pytest.raises(FileNotFoundError):
        IO.load_checkpoint(tmp_path / "b.ckpt")


def fail_at(monkeypatch, module, name):
    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize(
    ("module", "name"), [(checkpoint_io, "save_file"), (files.os, "fsync"), (files.os, "replace")]
)
def test_a_write_that_fails_leaves_the_old_checkpoint(module, name, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    IO.save_checkpoint({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        fail_at(patch, module, name)
        with pytest.raises(OSError, match="No space"):
            IO.save_checkpoint({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    names = [".a.ckpt.0123456789abcdef", ".a.ckpt.mine", ".b.ckpt.0123456789abcdef", "a.ckpt"]
    for name in names:
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path / "a.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names[1:])


def test_the_next_save_removes_what_a_killed_one_left_but_not_what_is_being_written(tmp_path):
    path = tmp_path / "epoch=1[2].ckpt"
    dead = path.with_name(f".{path.name}.0123456789abcdef")
    dead.touch()
    with files.atomic_write(path) as living:
        IO.save_checkpoint({"a": torch.ones(3)}, path)
        assert not dead.exists()
        assert living.exists()
        living.write_bytes(b"later")
    assert path.read_bytes() == b"later"


def test_a_file_that_is_taken_for_a_dead_ones_is_made_anew(tmp_path, monkeypatch):
    lock, taken = files._lock, []

    def take(descriptor, *, wait):
        if wait and not taken:
            taken.extend(tmp_path.iterdir())
            files.remove_leftovers(tmp_path / "a")
        return lock(descriptor, wait=wait)

    monkeypatch.setattr(files, "_lock", take)
    with files.atomic_write(tmp_path / "a") as partial:
        assert partial not in taken
        partial.write_text("x")
    assert len(taken) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_permissions_are_those_of_any_file(tmp_path):
    IO.save_checkpoint({"a": torch.ones(3)}, tmp_path / "a.ckpt")
    (tmp_path / "other").touch()
    assert (tmp_path / "a.ckpt").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.ckpt"
    IO.save_checkpoint({"a": torch.ones(30), "b": [1, (2,)]}, path)
    data = path.read_bytes()
    for n_bytes in (0, 4, 8, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(wc.FormatError, match=r"checkpoint .*a\.ckpt is damaged"):
            IO.load_checkpoint(path)


def flip(path, offset):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_a_bit_that_was_flipped_is_an_error_that_names_the_tensor(dtype, tmp_path):
    path = tmp_path / "a.ckpt"
    value = {"a": torch.zeros(30), "b": torch.zeros(50, dtype=dtype), "rate": 0.125}
    for n_back in (1, 100, 50 * dtype.itemsize):
        IO.save_checkpoint({"state_dict": value}, path)
        with safe_open(path, "pt") as file:
            last = list(file.offset_keys())[-1]
        flip(path, -n_back)
        with pytest.raises(wc.FormatError, match=r"a\.ckpt is damaged: '.*' was changed") as error:
            IO.load_checkpoint(path)
        assert n_back > 1 or repr(last) in str(error.value)
        assert "Take another checkpoint, or start anew without resuming" in str(error.value)
    IO.save_checkpoint({"state_dict": value}, path)
    flip(path, path.read_bytes().index(b"0.125") + 3)
    with pytest.raises(wc.FormatError, match="what is beside the tensors was changed"):
        IO.load_checkpoint(path)


def test_checkpoints_without_checksums_are_read(tmp_path):
    tree = json.dumps({"dict": [["a", {"tensor": "a"}]]})
    metadata = {"kind": "weightcast checkpoint 1", "tree": tree}
    save_file({"a": torch.ones(2)}, tmp_path / "a.ckpt", metadata)
    assert_same(IO.load_checkpoint(tmp_path / "a.ckpt"), {"a": torch.ones(2)})


def test_a_checkpoint_may_hold_what_looks_like_the_end_of_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "b")
    data = torch.frombuffer(bytearray((tmp_path / "a.zip").read_bytes()), dtype=torch.uint8)
    IO.save_checkpoint({"a": data}, tmp_path / "a.ckpt")
    assert zipfile.is_zipfile(tmp_path / "a.ckpt")
    assert_same(IO.load_checkpoint(tmp_path / "a.ckpt"), {"a": data})


@pytest.mark.parametrize(
    "tree",
    [
        '{"exec": "x"}',
        '{"tensor": "b"}',
        '{"dict": [1]}',
        '{"dict": [[[], 1]]}',
        "{}",
        "[",
        "[" * 10**5,
        '{"state_dict": []}',
    ],
)
def test_a_tree_that_makes_no_sense_is_an_error(tree, tmp_path):
    metadata = {"kind": "weightcast checkpoint 1", "tree": tree}
    save_file({"a": torch.ones(1)}, tmp_path / "a.ckpt", metadata)
    with pytest.raises(wc.FormatError, match="is damaged"):
        IO.load_checkpoint(tmp_path / "a.ckpt")
    save_file({"a": torch.ones(1)}, tmp_path / "a.ckpt", {"tree": json.dumps([])})
    with pytest.raises(wc.FormatError, match="holds no training checkpoint"):
        IO.load_checkpoint(tmp_path / "a.ckpt")


def test_checkpoints_of_lightning_are_read(tmp_path):
    value = {"a": torch.ones(2), "b": {0: (1, 2.5)}}
    TorchCheckpointIO().save_checkpoint(value, tmp_path / "a.ckpt")
    assert_same(IO.load_checkpoint(tmp_path / "a.ckpt"), value)


class Malice:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(value)])
def test_no_file_runs_code(save, tmp_path):
    harm = Malice(tmp_path / "harm")
    save(harm if save is torch.save else pickle.dumps(harm), tmp_path / "a.ckpt")
    with pytest.raises(wc.FormatError, match="is damaged"):
        IO.load_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "harm").exists()
