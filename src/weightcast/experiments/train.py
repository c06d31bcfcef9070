"""One training run from a TrainConfig: model, plan, pre-training, fit, and what came of it."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from weightcast.checkpoint import save, saved_bytes
from weightcast.convert import convert
from weightcast.experiments.rows import Row, append_row, make_row
from weightcast.experiments.sources import PACKAGED, find_source
from weightcast.ledger import Ledger, ledger
from weightcast.plan import Plan
from weightcast.pretrain import pretrain
from weightcast.training import (
    FitResult,
    Images,
    Text,
    TrainConfig,
    convnet,
    fit,
    gpt,
    load_images,
    load_text,
    lstm,
    mlp,
    resnet20,
    vit,
)
from weightcast.training.callbacks import LAST

if TYPE_CHECKING:
    from weightcast.experiments.trial import Place

CONFIG, ROW, MODEL = "config.json", "row.json", "model"
IMAGE_BATCH, TEXT_BATCH = 500, 100
"""Images, or windows of text, in each of the batches that dictionaries are made from."""


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
        folder: what it wrote: config.json, row.json, model/, last.ckpt, csv/, tensorboard/.
        ledger: what each layer learns, holds and stores.
        result: errors and time.
        row: what was appended to the rows.
    """

    folder: Path
    ledger: Ledger
    result: FitResult
    row: Row


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    rows: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Train one network and write everything that came of it.

    Args:
        config: the run.
        resume: go on from the checkpoint in the run's folder; the config must be the same.
        rows: a file to append the result row to, beside the folder's own row.json.
        progress: whether to show it on stderr.

    Raises:
        ValueError: bad data, a plan that does not fit, a folder that holds another run, nothing
            to resume, or a loss that is no number.
        Interrupted: Ctrl-C; the folder's last.ckpt then holds the state to resume from.
    """
    folder = output_folder(config)
    _claim_folder(folder, config, resume)
    data = read_data(config, config.data)
    model = build_model(config, data, progress=progress)
    # Only now: what was refused leaves no folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    result = fit(
        model,
        data,
        config.training,
        seed=config.seed,
        progress=progress,
        label=f"{variant_name(config)}, seed {config.seed}",
        folder=folder,
        resume=resume,
        accelerator=config.accelerator,
    )
    save(model, folder / MODEL)
    counts = ledger(model, batch=config.training.batch_size)
    row = _result_row(config, data, counts, result, saved_bytes(folder / MODEL))
    if rows is not None:
        append_row(rows, row)
    (folder / ROW).write_text(json.dumps(row, ensure_ascii=False) + "\n")
    return Run(folder, counts, result, row)


def run(config: TrainConfig, place: Place) -> Row:
    """Train one network as a trial of a sweep: nothing is kept but its row.

    Args:
        config: the run; ``data`` is what the data is called.
        place: where the data lies, and what to compute on.

    Raises:
        ValueError: bad data, a plan that does not fit, or a loss that is no number.
    """
    data = read_data(config, find_source(place.data, config.data))
    if config.data not in PACKAGED:
        data = replace(data, name=config.data)
    model = build_model(config, data)
    result = fit(
        model,
        data,
        config.training,
        seed=config.seed,
        progress=False,
        accelerator=place.accelerator,
    )
    counts = ledger(model, batch=config.training.batch_size)
    return _result_row(config, data, counts, result)


def read_data(config: TrainConfig, source: str) -> Images | Text:
    """The config's images, standardised, or its text, from where they lie and split as it says."""
    if config.model.reads_text:
        data = load_text(source, context=config.context, n_validation=config.n_validation)
        return data if config.n_train is None else data.fewer(config.n_train)
    images = load_images(source, n_validation=config.n_validation)
    if config.n_train is not None:
        images = images.fewer(config.n_train)
    return images.standardised() if config.standardise else images


def build_model(config: TrainConfig, data: Images | Text, *, progress: bool = False) -> nn.Module:
    """The config's network for these data: weights drawn, plan carried out, pre-trained.

    Args:
        config: the run.
        data: from whose training split data-driven dictionaries are made.
        progress: whether to show that of pre-training on stderr.

    Raises:
        ValueError: images too small for the network, or a plan that does not fit it.
    """
    model = _convert(_dense_model(config, data), config, data)
    if config.pretraining is not None:
        hidden = [name for name, _ in model.named_children() if name.startswith(("hidden", "conv"))]
        pretrain(
            model,
            data.train[0].split(100),
            layers=hidden,
            seed=config.seed,
            progress=progress,
            **dataclasses.asdict(config.pretraining),
        )
    return model


def _dense_model(config: TrainConfig, data: Images | Text) -> nn.Module:
    settings, n_classes, seed = config.model, data.n_classes, config.seed
    # What is left out takes the network's own default.
    depth = {} if settings.depth is None else {"depth": settings.depth}
    width = {} if settings.hidden is None else {"width": settings.hidden[0]}
    if isinstance(data, Text):
        if settings.name == "lstm":
            return lstm(n_classes, **width, **depth, seed=seed)
        return gpt(n_classes, data.context, **width, **depth, seed=seed)
    if settings.name == "vit":
        return vit(data.shape, n_classes, **width, **depth, seed=seed)
    if settings.name == "resnet20":
        return resnet20(data.shape, n_classes, settings.hidden or (16, 32, 64), seed=seed)
    if settings.name == "convnet":
        widths = settings.hidden or (48, 64, 64, 500)
        return convnet(data.shape, n_classes, settings.activation, widths, seed=seed)
    hidden = settings.hidden or (500, 500)
    return mlp(data.shape, n_classes, hidden, settings.activation, seed=seed)


def _convert(model: nn.Module, config: TrainConfig, data: Images | Text) -> nn.Module:
    if config.plan is None:
        return model
    x, _ = data.train
    # Spread over the data set, which may be sorted.
    chosen = torch.linspace(0, len(x) - 1, min(config.n_inputs, len(x))).long()
    # A list: a tuple of two could be an input and its target.
    inputs = list(x[chosen].split(TEXT_BATCH if config.model.reads_text else IMAGE_BATCH))
    return convert(model, Plan.from_dict(config.plan), inputs=inputs, seed=config.seed)


def output_folder(config: TrainConfig) -> Path:
    """The run's folder: the one that is named, or runs/VARIANT-seed-SEED."""
    if config.output is not None:
        return Path(config.output).expanduser()
    name = re.sub(r"[^\w.-]+", "-", f"{variant_name(config)}-seed-{config.seed}")
    return Path("runs") / name


def variant_name(config: TrainConfig) -> str:
    """What the run is called in tables and rows."""
    if config.variant is not None:
        return config.variant
    return config.model.name if config.plan is None else f"{config.model.name}-predicted"


def _claim_folder(folder: Path, config: TrainConfig, resume: bool) -> None:
    """Refuse to mix two runs in one folder, before anything is read or written."""
    if not resume:
        if (folder / LAST).exists() or (folder / ROW).exists():
            raise ValueError(
                f"{folder} holds a run already: continue it with --resume, or choose another "
                "folder with --output"
            )
        return
    if (folder / ROW).exists():
        raise ValueError(f"the run in {folder} is finished: its results are in {folder / ROW}")
    if not (folder / LAST).is_file():
        raise ValueError(f"there is no {LAST} in {folder} to resume from: leave --resume out")
    before = json.loads((folder / CONFIG).read_text())
    changed = _differences(before, config.to_dict())
    if changed:
        raise ValueError(
            f"the run in {folder} was started with another {changed[0]}: resume it with the config "
            "it was started with, or start another run with --output"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Dotted names of the fields that differ, where it makes a difference."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        a, b, name = before.get(key), now.get(key), f"{path}{key}"
        if name in ("output", "accelerator"):
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name} ({a!r}, now {b!r})")
    return found


def _portable(config: TrainConfig, found: Images | Text) -> dict[str, Any]:
    """The config without what belongs to one machine: where the data lay, where it wrote."""
    data = config.to_dict()
    for name in ("output", "accelerator"):
        del data[name]
    return data | {"data": config.data if config.data in PACKAGED else found.name}


def row_counts(counts: Ledger) -> dict[str, int]:
    """The totals of a ledger that a result row holds."""
    total = counts.total
    return {
        name: getattr(total, name)
        for name in ("dense", "learned", "static", "stored", "multiply_adds")
    }


def _result_row(
    config: TrainConfig,
    data: Images | Text,
    counts: Ledger,
    result: FitResult,
    checkpoint_bytes: int | None = None,
) -> Row:
    metrics = result.metrics()
    if checkpoint_bytes is not None:
        metrics["checkpoint_bytes"] = checkpoint_bytes
    row = make_row(
        experiment=config.experiment,
        variant=variant_name(config),
        dataset=config.data_name or data.name,
        seed=config.seed,
        config=_portable(config, data),
        counts=row_counts(counts),
        metrics=metrics,
    )
    return row | {"labels": config.labels} if config.labels else row
