"""Cells: runs that answer one question, some of them at a rate that other runs have chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.trial import Trial

CHOICE = "choice"
KINDS_THAT_CHOOSE = (CHOICE, "adapt-choice", "adapt-plays-choice")
"""The kinds of the trials that choose: their rows have nothing of the test split."""


@dataclass(frozen=True)
class Cell:
    """Runs that answer one question, of which the queue does all before it is answered.

    Args:
        name: in the list.
        why: what it is for, in a sentence.
        file: the name of the file that takes the rows of its runs.
        make: the runs, from the rate that was chosen; from None where there is nothing to choose.
        choices: trials that choose, by their rate; cells may share them.
        criterion: which of their metrics decides; the smallest wins.
        gpu: whether it waits for a GPU.
    """

    name: str
    why: str
    file: str
    make: Callable[[float | None], list[Trial]]
    choices: Mapping[float, Trial]
    criterion: str = "validation_error"
    gpu: bool = False

    def rate(self, rows: Mapping[str, Row]) -> float | None:
        """The rate with the smallest value, of equal ones the smallest; None while one is missing.

        Args:
            rows: the finished ones by their trials' keys.
        """
        if not self.choices or any(trial.key not in rows for trial in self.choices.values()):
            return None

        def value(rate: float) -> float:
            return rows[self.choices[rate].key]["metrics"][self.criterion]

        return min(sorted(self.choices), key=value)

    def trials(self, rows: Mapping[str, Row]) -> list[Trial]:
        """All trials that are known by now: those that choose, and the runs once they have chosen.

        Args:
            rows: the finished ones by their trials' keys.
        """
        if not self.choices:
            return self._runs[None]
        rate = self.rate(rows)
        return [*self.choices.values(), *(() if rate is None else self._runs[rate])]

    @property
    def n_trials(self) -> int:
        """All of them, those that are not known yet too."""
        return len(self.choices) + len(next(iter(self._runs.values())))

    @property
    def data(self) -> str:
        """What the data of its trials is called."""
        return self.trials({})[0].config.data

    @cached_property
    def _runs(self) -> Mapping[float | None, list[Trial]]:
        """By every rate that may be chosen: making a config takes its time."""
        return {rate: self.make(rate) for rate in self.choices or (None,)}
