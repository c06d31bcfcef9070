"""One training run from a TrainConfig: model, plan, pre-training, fit, and what came of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from weightcast.cli.result_rows import check_rows, row_counts
from weightcast.files import check_place, user_path, write_text
from weightcast.layers.counts import Ledger, ledger
from weightcast.storage import save, saved_bytes
from weightcast_lab.studies.sources import PACKAGED, find_source
from weightcast_lab.sweeps.rows import Row, append_row, make_row, read_rows
from weightcast_lab.sweeps.trial import Place, runs_trials
from weightcast_lab.training import FitResult, Images, Text, TrainConfig, fit
from weightcast_lab.training.build import build_model, read_data
from weightcast_lab.training.callbacks import LAST

CONFIG, FACTS, ROW, MODEL = "config.json", "data.json", "row.json", "model"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
        folder: what it wrote: config.json, data.json (an example's shape), row.json, model/,
            last.ckpt, metrics.csv, tensorboard/.
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
    workers: int = 0,
    processes: int = 1,
) -> Run | None:
    """Train one network and write everything that came of it.

    Args:
        config: the run.
        resume: go on from the checkpoint in the run's folder; the config must be the same.
        rows: a file to append the result row to, beside the folder's own row.json.
        progress: whether to show it on stderr.
        workers: processes that put batches together.
        processes: how many train together; see :func:`~weightcast_lab.training.fit`.

    Returns:
        None in a process that helped another one train, which has the result.

    Raises:
        ValueError: bad data, a plan that does not fit, a folder that holds another run, nothing
            to resume, or a loss that is no number.
        Interrupted: Ctrl-C; the folder's last.ckpt then holds the state to resume from.
    """
    folder = output_folder(config)
    leads = rank_zero_only.rank == 0
    if leads:
        claim_folder(folder, config, resume, rows)
    data = read_data(config, config.data)
    model = build_model(config, data, progress=progress and leads)
    # Only now: what was refused leaves no folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    if leads:
        write_text(folder / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")
        facts = {"shape": data.shape, "n_classes": data.n_classes}
        write_text(folder / FACTS, json.dumps(facts) + "\n")
    result = fit(
        model,
        data,
        config.training,
        seed=config.seed,
        progress=progress and leads,
        label=f"{variant_name(config)}, seed {config.seed}",
        folder=folder,
        resume=resume,
        accelerator=config.accelerator,
        workers=workers,
        processes=processes,
    )
    if not leads:
        return None
    save(model, folder / MODEL)
    counts = ledger(model, batch=config.training.batch_size)
    row = result_row(config, data, counts, result, saved_bytes(folder / MODEL))
    keep_row(row, folder, rows)
    return Run(folder, counts, result, row)


def keep_row(row: Row, folder: Path, rows: str | Path | None) -> None:
    """Write a finished run's row into its folder, and append it to a file of rows.

    In this order a run that is killed in between has its row once, and --resume adds it to the
    others; the other way round it would be measured again, and be there twice.
    """
    write_text(folder / ROW, json.dumps(row, ensure_ascii=False) + "\n")
    if rows is not None:
        append_row(rows, row)


def freeze(config: TrainConfig) -> TrainConfig:
    """A config without what a place decides.

    Raises:
        ValueError: it asks for checkpoints, which a trial does not keep.
    """
    if config.training.test_weights == "best":
        raise ValueError(
            "test_weights is 'best', which needs checkpoints, and a trial keeps none: take 'last', "
            "or weightcast train"
        )
    return replace(config, output=None, accelerator="auto")


@runs_trials("train", TrainConfig, freeze=freeze)
def run(config: TrainConfig, place: Place) -> Row:
    """Train one network as a trial of a sweep: nothing is kept but its row.

    Args:
        config: the run; ``data`` is what the data is called.
        place: where the data lies, what to compute on, and whether to keep checkpoints.

    Raises:
        ValueError: bad data, a plan that does not fit, or a loss that is no number.
    """
    return run_on(read_place(config, place), config, place)


def read_place(config: TrainConfig, place: Place) -> Images | Text:
    """A trial's data from where they lie, called as its config calls them.

    Raises:
        ValueError: data that cannot be read.
    """
    data = read_data(config, find_source(place.data, config.data))
    return data if config.data in PACKAGED else replace(data, name=config.data)


def run_on(data: Images | Text, config: TrainConfig, place: Place) -> Row:
    """Train a trial's network on these data, from its checkpoint if there is one.

    Raises:
        ValueError: a plan that does not fit, or a loss that is no number.
    """
    folder = None if place.checkpoints is None else Path(place.checkpoints)
    resume = folder is not None and (folder / LAST).is_file()
    # A checkpoint holds what was pre-trained.
    model = build_model(replace(config, pretraining=None) if resume else config, data)
    result = fit(
        model,
        data,
        config.training,
        seed=config.seed,
        progress=False,
        folder=folder,
        resume=resume,
        accelerator=place.accelerator,
    )
    counts = ledger(model, batch=config.training.batch_size)
    return result_row(config, data, counts, result)


def output_folder(config: TrainConfig) -> Path:
    """The run's folder: the one that is named, or runs/VARIANT-seed-SEED."""
    if config.output is not None:
        return user_path(config.output)
    name = re.sub(r"[^\w.-]+", "-", f"{variant_name(config)}-seed-{config.seed}")
    return Path("runs") / name


def variant_name(config: TrainConfig) -> str:
    """What the run is called in tables and rows."""
    if config.variant is not None:
        return config.variant
    return config.model.name if config.plan is None else f"{config.model.name}-predicted"


def claim_folder(folder: Path, config: Any, resume: bool, rows: str | Path | None) -> None:
    """Refuse to mix two runs in one folder, before anything is read or written.

    Args:
        folder: of the run.
        config: a TrainConfig, or another with ``to_dict``.
        resume: whether the run goes on.
        rows: a file to append the result row to.

    Raises:
        ValueError: the folder holds another run, a finished one, or nothing to resume from.
    """
    check_place(folder, folder=True)
    check_rows(rows)
    if not resume:
        if (folder / LAST).exists() or (folder / ROW).exists():
            raise ValueError(
                f"{folder} holds a run already: continue it with --resume, or choose another "
                "folder with --output"
            )
        return
    if (folder / ROW).exists():
        added = rows is not None and _add_missing(rows, read_rows(folder / ROW))
        raise ValueError(
            f"the run in {folder} is finished: its results are in {folder / ROW}"
            + f", and now in {rows}, where they were missing" * added
        )
    if not (folder / LAST).is_file():
        raise ValueError(f"there is no {LAST} in {folder} to resume from: leave --resume out")
    before = json.loads((folder / CONFIG).read_bytes())
    changed = _differences(before, config.to_dict())
    if changed:
        raise ValueError(
            f"the run in {folder} was started with another {changed[0]}: resume it with the config "
            "it was started with, or start another run with --output"
        )


def _add_missing(path: str | Path, rows: list[Row]) -> bool:
    """Append rows that a file lacks, as a run leaves it that was killed at its very end."""
    there = read_rows(path) if Path(path).exists() else []
    missing = [row for row in rows if row not in there]
    for row in missing:
        append_row(path, row)
    return bool(missing)


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


def result_row(
    config: TrainConfig,
    data: Images | Text,
    counts: Ledger,
    result: FitResult,
    checkpoint_bytes: int | None = None,
) -> Row:
    """The row of one run.

    Args:
        config: the run.
        data: that it was trained on.
        counts: of its model.
        result: errors and time.
        checkpoint_bytes: of the model on disk, where it was saved.
    """
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
