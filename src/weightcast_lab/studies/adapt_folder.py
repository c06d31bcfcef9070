"""A network from the Hub's folder learns a task with few weights, from an AdapterConfig."""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from weightcast.cli.result_rows import row_counts
from weightcast.files import check_place, user_path, write_text
from weightcast.layers.counts import ledger
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest
from weightcast.storage import save, saved_bytes
from weightcast.storage.peft_folder import export_peft
from weightcast.transform.adapt import adapt
from weightcast_lab.data.examples import Examples, read_examples
from weightcast_lab.studies.adapter_config import AdapterConfig
from weightcast_lab.studies.train import CONFIG, FACTS, MODEL, claim_folder, keep_row
from weightcast_lab.sweeps.rows import Row, make_row
from weightcast_lab.training import fit, measure
from weightcast_lab.training.hub_folder import Answers, load_network, load_reader

_BATCH = 16  # examples in each of the batches that dictionaries are made from


@dataclass(frozen=True)
class Adapted:
    """A finished run.

    Args:
        folder: what it wrote: config.json, data.json (labels), row.json, model/ (the adapter),
            last.ckpt, metrics.csv, tensorboard/.
        row: what was appended to the rows.
    """

    folder: Path
    row: Row


def adapt_folder(
    config: AdapterConfig,
    *,
    resume: bool = False,
    rows: str | Path | None = None,
    peft: str | Path | None = None,
    progress: bool = True,
) -> Adapted:
    """Adapt a network, measure it before and after, and write everything that came of it.

    Args:
        config: the run.
        resume: go on from the checkpoint in the run's folder; the config must be the same.
        rows: a file to append the result row to, beside the folder's own row.json.
        peft: a folder for the adapter as PEFT loads it; an older adapter in it is replaced.
        progress: whether to show it on stderr.

    Raises:
        ValueError: a network, data, plan or place that does not fit, told before the training; or a
            loss that is no number.
        Interrupted: Ctrl-C; the folder's last.ckpt then holds the state to resume from.
    """
    folder = output_folder(config)
    claim_folder(folder, config, resume, rows)
    check_place(peft, folder=True)
    there = None if peft is None else user_path(peft)
    if there is not None and there.exists() and not (there / "adapter_config.json").is_file():
        raise ValueError(f"{there} exists and holds no adapter: name a new folder")
    data, answers = _build(config, progress)
    model = answers.network
    if there is not None:  # what PEFT cannot hold is told before the training
        with TemporaryDirectory() as place, warnings.catch_warnings(action="ignore"):
            export_peft(model, Path(place) / "adapter")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")
    write_text(folder / FACTS, json.dumps({"labels": data.labels}, ensure_ascii=False) + "\n")
    before = measure(answers, data.test)
    label = f"{variant_name(config)}, seed {config.seed}"
    if progress:
        told = f"before, test error {before.error:.2f} %, loss {before.loss:.4f} nats"
        print(f"{label}: {told}", file=sys.stderr, flush=True)
    result = fit(
        answers, data, config.training, seed=config.seed, progress=progress, folder=folder,
        label=label, resume=resume, accelerator=config.accelerator,
    )  # fmt: skip
    save(model, folder / MODEL)
    if there is not None:
        export_peft(model, there)
    row = make_row(
        experiment=config.experiment,
        variant=variant_name(config),
        dataset=data.name,
        seed=config.seed,
        config=_portable(config, data),
        counts=row_counts(ledger(model)),
        metrics={
            **result.metrics(),
            "test_error_before": before.error,
            "test_loss_before": before.loss,
            "checkpoint_bytes": saved_bytes(folder / MODEL),
        },
    ) | {"curve": [dict(epoch) for epoch in result.curve]}
    keep_row(row, folder, rows)
    return Adapted(folder, row)


def variant_name(config: AdapterConfig) -> str:
    """What the run is called in tables and rows."""
    return config.variant or f"{user_path(config.model).resolve().name}-adapted"


def output_folder(config: AdapterConfig) -> Path:
    """The run's folder: the one that is named, or runs/VARIANT-seed-SEED."""
    if config.output is not None:
        return user_path(config.output)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", f"{variant_name(config)}-seed-{config.seed}")


def _build(config: AdapterConfig, progress: bool) -> tuple[Examples, Answers]:
    """The data, and the network as it is adapted to them, V at zero."""
    source = user_path(config.model)
    reader, facts = load_reader(config.task, source)
    data = read_examples(
        config.task, config.data, reader, length=config.length, n_validation=config.n_validation,
        channels=facts.get("num_channels", 3),
    )  # fmt: skip
    dtype: torch.dtype = getattr(torch, config.dtype)
    network, heads = load_network(config.task, source, data.n_classes, dtype, config.seed)
    heads = list(heads if config.heads is None else config.heads)
    answers = Answers(network, _padding(network, reader))
    inputs = _inputs(answers, data, config.n_inputs) if config.n_inputs else None
    if config.plan is None:
        plan = suggest(
            network, learned=config.learned, purpose="adapt", inputs=inputs, progress=progress
        )
        own = {n: rule for n, rule in plan.rules.items() if not _inside(n, heads)}
        plan = Plan(own)
    else:
        plan = Plan.from_dict(config.plan)
    model = adapt(network, plan, inputs, config.seed, heads=heads, free=config.free)
    return data, Answers(model, answers.padding)


def _inputs(answers: Answers, data: Examples, n: int) -> list[dict[str, Any]]:
    """Training examples in batches, those of a length together, so that few rows are padding."""
    x, _ = data.train
    x = x[torch.linspace(0, len(x) - 1, min(n, len(x))).long()]
    if not x.is_floating_point():
        x = x[(x >= 0).sum(1).argsort(stable=True)]
    return [answers.batch(part) for part in x.split(_BATCH)]


def _padding(network: nn.Module, reader: Any) -> int:
    """The token that ends shorter texts; the network is told where it did not know one."""
    config: Any = network.config
    known = getattr(config, "pad_token_id", None)
    if known is None:
        known = getattr(reader, "pad_token_id", None) or getattr(reader, "eos_token_id", None) or 0
        config.pad_token_id = known
    return known


def _inside(name: str, modules: list[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _portable(config: AdapterConfig, data: Examples) -> dict[str, Any]:
    """The config without what belongs to one machine."""
    found = config.to_dict() | {"model": user_path(config.model).resolve().name, "data": data.name}
    return {name: value for name, value in found.items() if name not in ("output", "accelerator")}
