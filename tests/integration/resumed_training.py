"""A user's own training with Lightning, whole or stopped and resumed.

``torchrun --nproc-per-node 2 resumed_training.py FOLDER`` runs both in two processes, and each
writes what it found.
"""

import faulthandler
import json
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset

import weightcast as wc
from weightcast_lab.training import RandomState, SafetensorsCheckpointIO

EPOCHS, BATCH = 3, 8


class Noisy(Dataset):
    """Examples that are disturbed anew at each look, by all three sources of random numbers."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        noise = torch.randn(16) + float(np.random.normal()) + random.gauss(0, 1)
        return torch.linspace(0, index, 16) / 48 + 0.1 * noise, index % 3


class Stop(Exception):  # noqa: N818 - it is no error
    """The power fails."""


class User(pl.LightningModule):
    """A converted network with dropout; stops at a step."""

    def __init__(self, stop_at=None):
        super().__init__()
        torch.manual_seed(5)
        dense = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Dropout(0.4), nn.Linear(20, 3))
        plan = {"0": wc.Rule(wc.dictionaries.DCT(), fraction=0.5, columns=2), "*": None}
        self.network = wc.convert(dense, plan)
        self.stop_at, self.losses = stop_at, []

    def training_step(self, batch, batch_idx):
        if self.global_step == self.stop_at:
            raise Stop
        x, y = batch
        # And some noise from the process's own NumPy and Python.
        loss = nn.functional.cross_entropy(self.network(x + random.random() + np.random.rand()), y)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(wc.parameter_groups(self.network, 0.01))
        steps = EPOCHS * 48 // BATCH // self.trainer.world_size
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=steps)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]


def scramble(seed):
    """Put all random states somewhere else, as in another process."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def fit(folder, workers, processes, *, stop_at=None, checkpoint=None, seed=0, keep_random=True):
    """Train; what the training knows at its end, as plain data."""
    module = User(stop_at)
    scramble(seed)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=DDPStrategy(process_group_backend="gloo") if processes > 1 else "auto",
        max_epochs=EPOCHS,
        plugins=[SafetensorsCheckpointIO()],
        callbacks=[
            *([RandomState()] if keep_random else []),
            ModelCheckpoint(folder, save_last=True, every_n_epochs=1),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Noisy(), BATCH, shuffle=True, num_workers=workers)
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    except Stop:
        return None
    return {
        "losses": module.losses,
        "parameters": [p.detach().flatten().tolist() for p in module.parameters()],
        "optimiser": _plain(trainer.optimizers[0].state_dict()),
        "schedule": _plain(trainer.lr_scheduler_configs[0].scheduler.state_dict()),
        "next draws": [float(torch.rand(())), float(np.random.rand()), random.random()],
    }


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def compare(folder, workers, processes, **options):
    """The whole run, and the one that stops in the middle of the second epoch and goes on."""
    folder = Path(folder)
    whole = fit(folder / "whole", workers, processes, **options)
    per_epoch = len(whole["losses"]) // EPOCHS
    fit(folder / "cut", workers, processes, stop_at=per_epoch + 1, **options)
    last = folder / "cut" / "last.ckpt"
    resumed = fit(folder / "cut", workers, processes, checkpoint=last, seed=99, **options)
    whole["losses"] = whole["losses"][per_epoch:]
    return whole, resumed


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    found = compare(folder, workers=0, processes=2)
    rank = torch.distributed.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
