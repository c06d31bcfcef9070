"""What each process runs in test_distributed.py, and what it is compared with in one process.

    torchrun --nproc-per-node 2 data_parallel.py torchrun OUT     # as a user starts it
    python data_parallel.py lightning OUT                         # Lightning starts the second one

Every process writes ``OUT/MODE-RANK.json``: per case losses, bytes sent and what else is asserted.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import weightcast as wc
from weightcast.dictionaries.constants import Constants, named_constants

STEPS, BATCH = 4, 32  # of all processes together
LIMIT = 100  # seconds after which a process gives up


class Wire(TorchDispatchMode):
    """Counts the bytes of the tensors handed to collectives, whoever calls them.

    Every collective of every backend is an operator of ``c10d``, so this sees DDP's gradients and
    its broadcasts of buffers alike, from Python and from C++.
    """

    def __init__(self):
        super().__init__()
        self.bytes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            self.bytes[func.__name__.split(".")[0]] += sum(
                t.numel() * t.element_size()
                for t in torch.utils._pytree.tree_leaves(args[0])
                if isinstance(t, torch.Tensor)
            )
        return func(*args, **(kwargs or {}))

    def take(self):
        """What was sent since the last time."""
        sent, self.bytes = dict(self.bytes), Counter()
        return sent


def written_bytes():
    """What this process has written so far, to sockets too; None where the system does not say."""
    file = Path("/proc/self/io")
    return int(file.read_text().split("wchar:")[1].split()[0]) if file.is_file() else None


def make_dense():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(256, 160), nn.Tanh(), nn.Linear(160, 80), nn.Tanh(),
            nn.Linear(80, 5),
        )  # fmt: skip


def make_predicted(seed=0):
    plan = {
        "1": wc.Rule(wc.dictionaries.Kernel(), 0.1, 4, (16, 16)),
        "3": wc.Rule(wc.dictionaries.RandomGaussian(), 0.1, 4),
    }
    return wc.convert(make_dense(), plan, seed=seed)


def make_adapted():
    """A frozen network with V beside it, and a last layer that learns whole."""
    x, _ = next(batches())
    plan = {
        "1": wc.Rule(wc.dictionaries.PCA(whiten=True), n_atoms=3, columns=32),
        "3": wc.Rule(wc.dictionaries.RandomGaussian(), n_atoms=4, columns=4),
    }
    return wc.adapt(make_dense(), plan, inputs=x, heads=["5"])


def make_normalised():
    """Dense, with the buffers that batch normalisation has."""
    dense = list(make_dense())
    return nn.Sequential(*dense[:2], nn.BatchNorm1d(160), *dense[2:])


def with_buffers(model):
    """The same network, its dictionaries registered as plain buffers: what DDP then sends."""
    for module in model.modules():
        if isinstance(module, Constants):
            buffers = {name: module.__dict__.pop(name) for name in module._constants}
            module._constants, module.__dict__["_buffers"] = [], buffers
    return model


class Around(nn.Module):
    """A network of the user's around a converted one."""

    def __init__(self, predicted):
        super().__init__()
        self.features = predicted
        self.head = nn.Linear(5, 5)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.head(self.features(x))


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 1, 16, 16, generator=generator)
        yield x, (x.flatten(1)[:, :5] + x.mean()).argmax(dim=1)


def make_optimiser(model, learning_rate=1e-2):
    return torch.optim.AdamW(model.parameters(), learning_rate)


def train(model, rank=0, world=1, wire=None, learning_rate=1e-2):
    """Losses of a few steps on this process's rows, and the bytes sent in each."""
    optimiser = make_optimiser(model, learning_rate)
    losses, sent, written = [], [], []
    if wire is not None:
        wire.take()
    for x, y in batches():
        before = written_bytes()
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rank::world]), y[rank::world])
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if wire is not None:
            sent.append(wire.take())
            written.append(None if before is None else written_bytes() - before)
    return {"losses": losses, "sent": sent, "written": written}


def fingerprint(model):
    return [float(c.double().sum()) for _, c in named_constants(model) if c.numel()]


def learned(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def run_ddp(model, rank, world, hook=None):
    known = fingerprint(model)
    with Wire() as wire:
        ddp = DistributedDataParallel(model)
        if hook is not None:
            ddp.register_comm_hook(None, hook)
        at_start = wire.take()
        facts = train(ddp, rank, world, wire)
    assert fingerprint(model) == known
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    facts |= {"fingerprint": known, "at_start": at_start}
    return facts | {"learned": learned(model), "buffer_bytes": buffers}


def run_sharded(rank, world):
    """FSDP2: every process keeps a part of each parameter, and all of U."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        set_model_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (world,))

    def shard():
        model = make_predicted()
        for layer in (model[1], model[3]):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model = shard()
    known = fingerprint(model)
    with Wire() as wire:
        facts = train(model, rank, world, wire)
    assert fingerprint(model) == known
    facts |= {"sharded": all(isinstance(p, DTensor) for p in model.parameters())}
    facts |= {"whole": not any(isinstance(c, DTensor) for _, c in named_constants(model))}
    # As a checkpoint is read: one process has it, the others get theirs from it.
    options = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(model, options=options)
    x = next(batches())[0]
    y = model(x).detach()
    other = shard()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(other, state if rank == 0 else {}, options=options)
    facts["keys"] = list(state)
    facts["read_back"] = torch.equal(other(x), y)
    return facts | {"fingerprint": known, "learned": learned(model)}


def run_torchrun(out):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    facts = {
        "predicted": run_ddp(make_predicted(), rank, world),
        "adapted": run_ddp(make_adapted(), rank, world),
        "around": run_ddp(Around(make_predicted()), rank, world),
        "dense": run_ddp(make_dense(), rank, world),
        "normalised": run_ddp(make_normalised(), rank, world),
        "buffers": run_ddp(with_buffers(make_predicted()), rank, world),
        "half": run_ddp(make_predicted(), rank, world, fp16_compress_hook),
    }
    apart = make_predicted(seed=rank)
    before = fingerprint(apart)
    wc.broadcast_constants(apart)
    x = next(batches())[0]
    # V is process 0's too, as DDP would see to.
    dist.broadcast(apart[1].V.data, 0)
    dist.broadcast(apart[3].V.data, 0)
    works = torch.equal(apart(x), make_predicted()(x))
    facts["apart"] = {"before": before, "after": fingerprint(apart), "works": works}
    try:
        wc.broadcast_constants(apart if rank == 0 else Around(apart))
    except ValueError as error:
        facts["refused"] = str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts["sharded"] = run_sharded(rank, world)
    write(out, "torchrun", rank, facts)


def run_lightning(out):
    import pytorch_lightning as pl
    from pytorch_lightning.strategies import DDPStrategy
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    class User(pl.LightningModule):
        """A user's module that holds a converted network."""

        def __init__(self):
            super().__init__()
            self.network = make_predicted()
            self.losses, self.sent = [], []

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self.network(x), y)
            self.losses.append(float(loss.detach()))
            return loss

        def on_train_start(self):
            wire.take()

        def on_train_batch_end(self, *_):
            self.sent.append(wire.take())

        def configure_optimizers(self):
            return make_optimiser(self)

        def train_dataloader(self):
            # In order, where Lightning's own sampler shuffles: process r takes rows r, r + 2, ...
            images = TensorDataset(*map(torch.cat, zip(*batches(), strict=True)))
            sampler = DistributedSampler(images, shuffle=False)
            return DataLoader(images, BATCH // 2, sampler=sampler)

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = User()
    known = fingerprint(module)
    with Wire() as wire:
        trainer.fit(module)
    assert fingerprint(module) == known
    facts = {"losses": module.losses, "sent": module.sent, "fingerprint": known}
    write(out, "lightning", trainer.global_rank, facts | {"learned": learned(module)})


def write(out, mode, rank, facts):
    part = Path(out) / f".{mode}-{rank}"
    part.write_text(json.dumps(facts))
    os.replace(part, Path(out) / f"{mode}-{rank}.json")


def leave(out, mode):
    """End, once all processes have written what they found, whatever threads still run.

    Gloo's threads may outlive the interpreter's shutdown, which then aborts now and then. What is
    asked of these processes is in their files by now.
    """
    while not all((Path(out) / f"{mode}-{rank}.json").exists() for rank in range(2)):
        time.sleep(0.05)  # not for ever: see LIMIT
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    torch.set_num_threads(1)
    mode, folder = sys.argv[1:]
    {"torchrun": run_torchrun, "lightning": run_lightning}[mode](folder)
    leave(folder, mode)
