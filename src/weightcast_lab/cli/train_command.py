"""weightcast train: read the config, train the network, print the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from weightcast_lab.studies.train import Run, output_folder, train
from weightcast_lab.training import Interrupted, TrainConfig
from weightcast_lab.training.settings import override, parse_value, read_yaml


def run_train(
    config: str | Path,
    fields: Mapping[str, Any],
    plan_overrides: Mapping[str, str],
    rows: str | Path | None = None,
    resume: bool = False,
    workers: int = 0,
    processes: int = 1,
    resume_command: str = "weightcast train CONFIG.yaml --resume",
) -> None:
    """Train one network from a YAML file and print what it learned and how well.

    Args:
        config: the file, with the fields of a TrainConfig.
        fields: what overrides it, by dotted names.
        plan_overrides: what overrides the plan, by dotted names; the values are read as YAML.
        rows: a file to append the result row to.
        resume: go on from the run's last checkpoint.
        workers: processes that put batches together.
        processes: how many train together.
        resume_command: what to tell a user who stopped the run.

    Raises:
        ValueError: a config, data or folder that cannot be used; the message says why.
        Interrupted: Ctrl-C, after the checkpoint was written.
    """
    settings = read_config(Path(config), fields, plan_overrides)
    try:
        run = train(settings, resume=resume, rows=rows, workers=workers, processes=processes)
    except Interrupted as interrupt:
        if rank_zero_only.rank:  # the process that leads has saved the state, and says so
            return
        folder = output_folder(settings)
        raise Interrupted(
            f"{interrupt}; its state is in {folder}. Go on with\n  {resume_command}"
        ) from None
    if run is not None:  # or this process only helped
        print(table(run))


def read_config(
    path: Path, fields: Mapping[str, Any], plan_overrides: Mapping[str, str]
) -> TrainConfig:
    """A config file, with fields and entries of its plan replaced.

    Raises:
        ValueError: no such file, or fields it does not know (with the nearest one it does).
    """
    data = read_yaml(path)
    parsed = {name: parse_value(value) for name, value in plan_overrides.items()}
    for name, value in {**fields, **parsed}.items():
        override(data, name, value)
    return TrainConfig.from_dict(data, str(path))


def table(run: Run) -> str:
    """The ledger and what was measured, as text."""
    result, row = run.result, run.row
    measured = {"test error": f"{result.test.error:.2f} %"}
    measured["test loss"] = f"{result.test.loss:.4f} nats"
    if result.validation is not None:
        measured["validation error"] = f"{result.validation.error:.2f} %"
        measured["validation loss"] = f"{result.validation.loss:.4f} nats"
    measured["training loss"] = f"{result.train_loss:.4f}"
    measured["training time"] = f"{result.train_seconds:.1f} s, {result.epochs} epochs"
    measured["saved network"] = f"{row['metrics']['checkpoint_bytes']:,} bytes, {run.folder}/model"
    title = f"{row['variant']}, {row['dataset']}, seed {row['seed']}"
    lines = [f"{name:<17} {text}" for name, text in measured.items()]
    return "\n".join([title, "", str(run.ledger), "", *lines])
