"""Replay: what layers are given does not depend on whether modules are replayed."""

from __future__ import annotations

import copy
import errno
import gc
import os
import tempfile

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.inputs.batches import InputsError
from weightcast.inputs.replay import Replay
from weightcast.inputs.survey import survey
from weightcast.inputs.walk import Walk


class Block(nn.Module):
    """Two layers, an activation that writes into its input, and a sum with the input."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(size, size), nn.Linear(size, size)
        self.act = nn.ReLU(inplace=True)
        self.n_runs = 0

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


class Blocks(nn.Module):
    """A chain of blocks, and a hook for what a subclass does between them."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(n))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        for block in self.blocks:
            x = self.between(block(x))
        return self.head(x)

    def between(self, x):
        return x


class ChangesInPlace(Blocks):
    def between(self, x):
        return x.mul_(0.5).relu_()


class Skips(Blocks):
    """Every block is given all that came before."""

    def forward(self, x):
        found = [x]
        for block in self.blocks:
            found.append(block(torch.stack(found).mean(dim=0)))
        return self.head(sum(found))


class Tuples(Blocks):
    """Blocks return a tuple of what they were given and what they made, and a number."""

    class Telling(nn.Module):
        def __init__(self, block: Block) -> None:
            super().__init__()
            self.block = block

        def forward(self, x, mask):
            return {"x": self.block(x) * mask, "mask": mask, "n": 3}, (x, None)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Tuples.Telling(block) for block in self.blocks)

    def forward(self, x):
        mask = torch.ones(6)
        for block in self.blocks:
            found, (before, _) = block(x, mask=mask)
            x, mask = found["x"] + before, found["mask"] * found["n"] / 3
        return self.head(x)


class Passes(Blocks):
    """Blocks are given one tensor twice, and return the argument that comes after it."""

    class Twice(nn.Module):
        def __init__(self, block: Block) -> None:
            super().__init__()
            self.block = block

        def forward(self, x, again, scale):
            return self.block(x) + again, scale

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Passes.Twice(block) for block in self.blocks)

    def forward(self, x):
        scale = torch.arange(6.0).to(x)
        for block in self.blocks:
            x, scale = block(x, x, scale)
            x = x * scale
        return self.head(x)


class Shared(Blocks):
    """One activation for all blocks, and one block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.act = self.blocks[0].act

    def forward(self, x):
        for block in [*self.blocks, self.blocks[1]]:
            x = block(x)
        return self.head(x)


class Views(Blocks):
    """A module that returns a view of its input, which is then written into."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.nothing = nn.Flatten(), nn.Identity()

    def between(self, x):
        y = self.flatten(self.nothing(x).view(-1, 2, 3))
        y += 1
        return x


class Depends(Blocks):
    """Which block runs next depends on values."""

    def forward(self, x):
        x = self.blocks[0](x)
        x = self.blocks[1](x) if float(x.sum()) > 0 else self.blocks[2](x)
        return self.head(x)


class Recurs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.attend = nn.MultiheadAttention(10, 2, batch_first=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x):
        x, _ = self.rnn(x.unsqueeze(1).expand(-1, 4, -1))
        return self.head(self.attend(x, x, x)[0])


class Convolves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(inplace=True),
            nn.Conv1d(4, 4, 2, groups=2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 6),
        )  # fmt: skip
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.body(x.unsqueeze(1)))


NETWORKS = [
    Blocks, ChangesInPlace, Skips, Tuples, Passes, Shared, Views, Depends, Recurs, Convolves,
]  # fmt: skip
RULE = wc.Rule(wc.dictionaries.SingularVectors(), 0.5)


def keep_nothing(patch, **how):
    """Replays keep less than they would by default."""
    defaults = Replay.__init__.__kwdefaults__ | {"kept_bytes": 0} | how
    patch.setattr(Replay.__init__, "__kwdefaults__", defaults)


def compressed(model, batches, monkeypatch, **options):
    """The compressed weights with replays, and without any."""
    found = []
    for whole in (False, True):
        with monkeypatch.context() as patch:
            if whole:
                keep_nothing(patch, whole=True)
            small = wc.compress(model, {"*": RULE}, batches, progress=False, **options)
            found.append(wc.merge(small).state_dict())
    return found


@pytest.mark.parametrize("network", NETWORKS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("refresh", ["layer", "block", "never"])
def test_replays_change_nothing(network, refresh, monkeypatch):
    model = network().double()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    batches = [torch.randn(20, 6).double() for _ in range(3)]
    copies = copy.deepcopy(batches)
    replayed, plain = compressed(model, batches, monkeypatch, refresh=refresh)
    for name, value in plain.items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-6, atol=1e-9)
    assert all(map(torch.equal, batches, copies))
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys(), name
        assert not module._forward_pre_hooks


def test_what_is_passed_on_is_told_from_what_is_given_twice():
    said: list[str] = []
    names = [f"blocks.{n}.block.{part}" for n in range(3) for part in ("up", "down")]
    with Walk(Passes(), names, [torch.randn(20, 6)], {}, 0, say=said.append):
        assert not said  # as a replay that gives another argument would be noticed


class Counted(Block):
    """Counts its runs."""

    def forward(self, x):
        self.runs = getattr(Counted, "runs", 0) + 1
        Counted.runs = self.runs
        return super().forward(x)


def runs_of_a_block(n_blocks, **options):
    """How often each block runs on a batch when all layers are compressed."""
    model = Blocks(n_blocks)
    model.blocks = nn.ModuleList(Counted() for _ in range(n_blocks))
    Counted.runs = 0
    batches = [torch.randn(30, 6) for _ in range(4)]
    wc.compress(model, {"re:blocks.*": RULE}, batches, progress=False, **options)
    return Counted.runs / n_blocks / len(batches)


@pytest.mark.parametrize("options", [{}, {"refresh": "block"}, {"refresh": "never"}])
def test_a_block_runs_as_often_in_a_deep_network(options):
    few, many = runs_of_a_block(4, **options), runs_of_a_block(12, **options)
    assert abs(few / many - 1) < 0.1
    assert many < 9


def test_what_does_not_fit_in_memory_is_kept_in_files_that_have_no_name(monkeypatch):
    monkeypatch.setattr("weightcast.inputs.replay.KEPT_BYTES", 0)
    monkeypatch.setattr(
        Replay.__init__, "__kwdefaults__", Replay.__init__.__kwdefaults__ | {"kept_bytes": 0}
    )
    opened = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda **how: opened.append(real(**how)) or opened[-1]
    )
    for network in (ChangesInPlace, Tuples, Convolves):
        model = network().double()
        replayed, plain = compressed(model, [torch.randn(20, 6).double()], monkeypatch)
        for name, value in plain.items():
            torch.testing.assert_close(replayed[name], value, rtol=1e-6, atol=1e-9)
    gc.collect()
    assert len(opened) > 10
    assert all(file.closed for file in opened)


def test_a_full_disk_is_one_error_and_leaves_nothing(monkeypatch, tmp_path):
    class Full:
        def __init__(self, **_: object) -> None:
            self.file = real(buffering=0)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = tempfile.TemporaryFile
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(
        Replay.__init__, "__kwdefaults__", Replay.__init__.__kwdefaults__ | {"kept_bytes": 0}
    )
    model = Blocks()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"what a \w+ gave cannot be kept.*No space.*TMPDIR"):
        wc.compress(model, {"re:blocks.*": RULE}, [torch.randn(20, 6)], progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.blocks[0])
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_the_model_as_it_was(monkeypatch):
    model, n = Blocks(), 0
    forward = Block.forward

    def interrupted(self, x):
        nonlocal n
        n += 1
        if n == 9:
            raise KeyboardInterrupt
        return forward(self, x)

    monkeypatch.setattr(Block, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wc.compress(model, {"re:blocks.*": RULE}, [torch.randn(20, 6)], progress=False)
    assert model.training
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks


def test_errors_of_values_are_those_of_inputs():
    model = Blocks()
    names = ["blocks.0.up", "blocks.2.down"]
    found = survey(model, names, [torch.randn(5, 6)])

    def refuse(*_):
        raise ValueError("no such rows")

    with Replay([torch.randn(5, 6)], names, found.calls) as replay:  # noqa: SIM117
        with pytest.raises(InputsError, match="no such rows"):
            with replay.watching(model, names[:1], refuse) as run:
                run(0, replay.batches[0])
    assert "forward" not in vars(model.blocks[0].up)
