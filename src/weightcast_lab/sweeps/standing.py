"""How a sweep stands: what is finished, what has failed, and how that is shown."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from weightcast.files import write_text
from weightcast_lab.sweeps.attempt import (
    ATTEMPTS,
    ERROR,
    LOG,
    ROW,
    TRIAL,
    keep_error,
    read_row,
)
from weightcast_lab.sweeps.executors import Outcome
from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.trial import Trial

_BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}, {remaining} left{postfix}"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep gave.

    Args:
        rows: of the finished trials, in the order of the trials.
        failures: each failed trial and its traceback.
    """

    rows: list[Row]
    failures: list[tuple[Trial, str]]


@dataclass
class State:
    """What is finished and what has failed, of the trials of a folder."""

    root: Path
    trials: list[Trial]
    rows: dict[str, Row] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.read()

    def read(self) -> None:
        """Find all rows that are there."""
        for trial in self.trials:
            row = read_row(self.root / trial.key, trial)
            if row is not None:
                self.rows[trial.key] = row

    def missing(self) -> list[Trial]:
        """The trials without a row."""
        return [trial for trial in self.trials if trial.key not in self.rows]

    def prepare(self, trial: Trial) -> bool:
        """Make a trial's folder; one that cannot be made or written is the trial's failure."""
        folder = self.root / trial.key
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / TRIAL).exists():
                write_text(folder / TRIAL, trial.to_json())
        except OSError:
            self.errors[trial.key] = traceback.format_exc()
        return trial.key not in self.errors

    def take(self, trial: Trial, future: Future[Any]) -> None:
        """Keep what became of a trial; an executor that broke down is its failure too."""
        folder = self.root / trial.key
        try:
            outcome = future.result()
            error = _store(folder, outcome) if isinstance(outcome, Outcome) else outcome
            row = None if error else read_row(folder, trial)
            if row is None and not error:
                error = f"the trial's process ended without an error and without {ROW}"
        except Exception:
            row, error = None, traceback.format_exc()
            keep_error(folder, error)
        if row is not None:
            self.rows[trial.key] = row
        else:
            self.errors[trial.key] = str(error)

    def result(self) -> SweepResult:
        """Rows and failures in the order of the trials."""
        return SweepResult(
            rows=[self.rows[t.key] for t in self.trials if t.key in self.rows],
            failures=[(t, self.errors[t.key]) for t in self.trials if t.key in self.errors],
        )


class SweepProgress:
    """A bar over all trials on a terminal; a line per finished trial in a log."""

    def __init__(self, state: State, *, shown: bool) -> None:
        self.state = state
        self.shown = shown
        self.bar: tqdm | None = None

    def __enter__(self) -> SweepProgress:
        done, total = len(self.state.rows), len(self.state.trials)
        if self.shown and (others := _made_by_others(self.state.rows.values())):
            self._say(others)
        if self.shown and sys.stderr.isatty():
            size = shutil.get_terminal_size()
            self.bar = tqdm(
                total=total,
                initial=done,
                desc="trials",
                # 80 x 24 where the terminal does not tell its size, and tqdm would draw nothing.
                ncols=min(100, size.columns),
                nrows=size.lines,
                bar_format=_BAR,
            )
        elif self.shown and done:
            self._say(f"{done} of {total} trials are finished already")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        failures = self.state.result().failures
        if self.shown and failures:
            self._say(f"{len(failures)} of {len(self.state.trials)} trials failed:")
            for trial, error in failures:
                self._say(f"  {trial.label}: {_last_line(error)}")
                self._say(f"    {self.state.root / trial.key / ERROR}")

    def update(self, trial: Trial) -> None:
        """Show that a trial is finished or has failed."""
        if self.bar is not None:
            if self.state.errors:
                self.bar.set_postfix_str(f"{len(self.state.errors)} failed", refresh=False)
            self.bar.update()
        elif self.shown:
            n = len(self.state.rows) + len(self.state.errors)
            self._say(f"{n}/{len(self.state.trials)} {trial.label}: {self._describe(trial)}")

    def tick(self) -> None:
        """Let the time run on, while trials take theirs."""
        if self.bar is not None:
            self.bar.refresh()

    def _describe(self, trial: Trial) -> str:
        if trial.key in self.state.errors:
            return f"failed: {_last_line(self.state.errors[trial.key])}"
        metrics = self.state.rows[trial.key]["metrics"]
        error, loss = metrics.get("test_error"), metrics.get("test_loss")
        text = "finished" if error is None else f"test error {error:.2f} %"
        return text if loss is None else f"{text}, loss {loss:.3f}"

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _store(folder: Path, outcome: Outcome) -> str | None:
    """Write what came back from elsewhere into the trial's folder, the row last."""
    for name, text in ((ATTEMPTS, outcome.attempts), (LOG, outcome.log)):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
    if outcome.row is None:
        keep_error(folder, str(outcome.error))
        return outcome.error
    (folder / ERROR).unlink(missing_ok=True)
    write_text(folder / ROW, outcome.row)
    return None


def _made_by_others(rows: Collection[Row]) -> str | None:
    """What to say of rows that another version of weightcast has made; None if there are none."""
    here = version("weightcast")
    made_by = [str(row["versions"].get("weightcast", "of no version")) for row in rows]
    others = [there for there in made_by if there != here]
    if not others:
        return None
    return (
        f"{len(others)} of {len(rows)} rows were made by weightcast "
        f"{', '.join(sorted(set(others)))}, this is {here}: sweep into another folder to run them "
        "again"
    )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
