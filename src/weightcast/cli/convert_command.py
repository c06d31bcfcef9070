"""weightcast convert: a model with predicted layers, V drawn anew, saved to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from weightcast.cli.sources import load_inputs, load_source
from weightcast.cli.stand_in import StandIn
from weightcast.layers.counts import ledger
from weightcast.plan.budget import Count, TooMuchDenseError
from weightcast.plan.plan import Plan
from weightcast.plan.suggest import suggest
from weightcast.storage import JSON_NAME, save
from weightcast.transform.convert import convert
from weightcast_lab.sweeps.rows import append_row, make_row
from weightcast_lab.training.build import row_counts
from weightcast_lab.training.settings import read_yaml


@dataclass(frozen=True)
class Job:
    """What ``convert`` and ``compress`` have in common: a model, a plan, a folder.

    Args:
        source: of the model; see :func:`weightcast.cli.sources.load_source`.
        output: folder to save to.
        plan: a YAML or JSON file; None suggests a plan.
        fraction: of a suggested plan.
        budget: of a suggested plan: a share below 1, or a whole number.
        count: what the budget counts; None takes the command's own.
        columns: of a suggested plan; None takes 10.
        factory: makes the model of a state dict.
        inputs: example inputs.
        batch: examples per batch of a file.
        allow_import: whether functions are imported.
        seed: of all draws.
        rows: a file to append a row to.
        own_count: what a budget counts by default.
    """

    source: str
    output: str | Path
    plan: str | Path | None = None
    fraction: float | None = None
    budget: float | int | None = None
    count: Count | None = None
    columns: int | None = None
    factory: str | None = None
    inputs: str | None = None
    batch: int = 100
    allow_import: bool = False
    seed: int = 0
    rows: str | Path | None = None
    own_count: Count = "learned"

    def prepare(self) -> tuple[nn.Module, Plan, list[Any] | None]:
        """The model, the plan and the batches.

        Raises:
            ValueError: what cannot be read or used; the message says why.
        """
        self._check_options()
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
        except TooMuchDenseError as error:  # which the guess explains, and no other mistake
            if isinstance(model, StandIn) and model.is_partial:
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

    def _check_options(self) -> None:
        """Refuse options that nothing would read.

        Raises:
            ValueError: those beside a plan, both a fraction and a budget, a count of no budget.
        """
        suggested = ("fraction", "budget", "count", "columns")
        given = [f"--{name}" for name in suggested if getattr(self, name) is not None]
        if self.plan is not None and given:
            raise ValueError(f"--plan says what is learned: leave out {' and '.join(given)}")
        if self.fraction is not None and self.budget is not None:
            raise ValueError(
                f"--fraction is {self.fraction} and --budget {self.budget}: give one of the two"
            )
        if self.count is not None and self.budget is None:
            raise ValueError("--count says what a budget counts: give --budget, or leave it out")

    def _find_plan(self, model: nn.Module, batches: list[Any] | None) -> Plan:
        if self.plan is not None:
            data = read_yaml(Path(self.plan).expanduser())
            return Plan.from_dict(data if "rules" in data else {"rules": data})
        return suggest(
            model,
            self.fraction,
            batches,
            10 if self.columns is None else self.columns,
            budget=self.budget,
            count=self.count or self.own_count,
            seed=self.seed,
        )


def run_convert(**options: Any) -> None:
    """Convert a model, print its ledger, save it.

    Args:
        options: as of :class:`Job`.

    Raises:
        ValueError: what cannot be read, planned or converted.
    """
    job = Job(**options)
    model, plan, batches = job.prepare()
    converted = convert(model, plan, inputs=batches, seed=job.seed)
    print(ledger(converted))
    print(f"\n{job.finish(converted, plan, 'convert', {})}")


def source_name(source: str) -> str:
    """A file or folder by its own name: rows should not tell where on a machine it lay."""
    return Path(source).name or source
