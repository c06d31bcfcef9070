"""weightcast convert: a model with predicted layers, V drawn anew, saved to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from weightcast.budget import Count
from weightcast.checkpoint import JSON_NAME, save
from weightcast.commands.sources import load_inputs, load_source
from weightcast.commands.stand_in import StandIn
from weightcast.convert import convert
from weightcast.experiments.rows import append_row, make_row
from weightcast.experiments.train import row_counts
from weightcast.ledger import ledger
from weightcast.plan import Plan
from weightcast.suggest import suggest
from weightcast.training.settings import read_yaml


@dataclass(frozen=True)
class Job:
    """What ``convert`` and ``compress`` have in common: a model, a plan, a folder.

    Args:
        source: of the model; see :func:`weightcast.commands.sources.load_source`.
        output: folder to save to.
        plan: a YAML or JSON file; None suggests a plan.
        fraction: of a suggested plan.
        budget: of a suggested plan.
        count: what the budget counts.
        columns: of a suggested plan.
        factory: makes the model of a state dict.
        inputs: example inputs.
        batch: examples per batch of a file.
        allow_import: whether functions are imported.
        seed: of all draws.
        rows: a file to append a row to.
    """

    source: str
    output: str | Path
    plan: str | Path | None = None
    fraction: float | None = None
    budget: float | None = None
    count: Count = "learned"
    columns: int = 10
    factory: str | None = None
    inputs: str | None = None
    batch: int = 100
    allow_import: bool = False
    seed: int = 0
    rows: str | Path | None = None

    def prepare(self) -> tuple[nn.Module, Plan, list[Any] | None]:
        """The model, the plan and the batches.

        Raises:
            ValueError: what cannot be read or used; the message says why.
        """
        if self.plan is not None and (self.fraction, self.budget) != (None, None):
            raise ValueError("--plan says what is learned: leave out --fraction and --budget")
        folder = Path(self.output).expanduser()
        if folder.exists() and not (folder / JSON_NAME).is_file():
            raise ValueError(f"{folder} exists and holds no saved model: name a new folder")
        model = load_source(self.source, self.allow_import, self.factory)
        if self.inputs is not None and not isinstance(model, nn.Module):
            raise ValueError(
                "--inputs need a model to run, and a state dict has weights only: name the "
                "function that makes the model, --factory package.module:function"
            )
        batches = None
        if self.inputs is not None:
            batches = load_inputs(self.inputs, self.allow_import, self.batch)
        if not isinstance(model, nn.Module):
            model = StandIn(model)
        try:
            return model, self._find_plan(model, batches), batches
        except ValueError as error:
            if isinstance(model, StandIn):
                raise ValueError(f"{error}. {model.caveat}") from error
            raise

    def finish(self, model: nn.Module, plan: Plan, command: str, metrics: Mapping[str, Any]) -> str:
        """Save the model and its row; say where."""
        folder = Path(self.output).expanduser()
        folder.parent.mkdir(parents=True, exist_ok=True)
        save(model, folder)
        if self.rows is not None:
            config = {"plan": plan.to_dict(), "source": source_name(self.source)}
            row = make_row(
                experiment=command,
                variant=source_name(self.source),
                dataset="none" if self.inputs is None else source_name(self.inputs),
                seed=self.seed,
                config=config,
                counts=row_counts(ledger(model)),
                metrics=dict(metrics),
            )
            append_row(Path(self.rows).expanduser(), row)
        caveat = f" {model.caveat}" if isinstance(model, StandIn) else ""
        return (
            f"The model is in {folder}: weightcast.load({str(folder)!r}, model) reads it.{caveat}"
        )

    def _find_plan(self, model: nn.Module, batches: list[Any] | None) -> Plan:
        if self.plan is not None:
            data = read_yaml(Path(self.plan).expanduser())
            return Plan.from_dict(data if "rules" in data else {"rules": data})
        budget = self.budget
        if budget is not None and budget >= 1 and budget == int(budget):
            budget = int(budget)
        return suggest(
            model,
            self.fraction,
            batches,
            self.columns,
            budget=budget,
            count=self.count,
            seed=self.seed,
        )


def run_convert(count: Literal["learned", "stored"] = "learned", **options: Any) -> None:
    """Convert a model, print its ledger, save it.

    Args:
        count: what a budget counts.
        options: as of :class:`Job`.

    Raises:
        ValueError: what cannot be read, planned or converted.
    """
    job = Job(count=count, **options)
    model, plan, batches = job.prepare()
    converted = convert(model, plan, inputs=batches, seed=job.seed)
    print(ledger(converted))
    print(f"\n{job.finish(converted, plan, 'convert', {})}")


def source_name(source: str) -> str:
    """A file or folder by its own name: rows should not tell where on a machine it lay."""
    return Path(source).name or source
