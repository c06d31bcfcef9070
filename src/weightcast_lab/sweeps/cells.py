"""Cells: runs that answer one question, some of them at a rate that other runs have chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.trial import STUDIES, Trial

CHOICE = "choice"
KINDS_THAT_CHOOSE = tuple(kind for kind in STUDIES if kind.endswith(CHOICE))
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
        further: more of them, each tried only if none of those before is better than that end.
        criterion: which of their metrics decides; the smallest wins.
        gpu: whether it waits for a GPU.
    """

    name: str
    why: str
    file: str
    make: Callable[[float | None], list[Trial]]
    choices: Mapping[float, Trial]
    further: Mapping[float, Trial] = field(default_factory=dict)
    criterion: str = "validation_error"
    gpu: bool = False

    @cached_property
    def offered(self) -> Mapping[float, Trial]:
        """All trials that may choose, by their rate."""
        return {**self.choices, **self.further}

    def tried(self, rows: Mapping[str, Row]) -> list[float]:
        """The rates that are to be tried, as far as it is known by now, in order.

        Args:
            rows: the finished ones by their trials' keys.
        """
        tried = sorted(self.choices)
        while best := self._best(tried, rows):
            lower = [rate for rate in self.further if rate < tried[0] == best[0]]
            upper = [rate for rate in self.further if rate > tried[-1] == best[-1]]
            if not lower + upper:
                break
            tried = sorted([*tried, *sorted(lower)[-1:], *sorted(upper)[:1]])
        return tried

    def rate(self, rows: Mapping[str, Row]) -> float | None:
        """The rate with the smallest value, of equal ones the smallest; None while one is missing.

        Args:
            rows: the finished ones by their trials' keys.
        """
        return next(iter(self._best(self.tried(rows), rows)), None)

    def _best(self, rates: Sequence[float], rows: Mapping[str, Row]) -> list[float]:
        """Those of the smallest value, in the order of ``rates``; none while one is missing."""
        keys = {rate: self.offered[rate].key for rate in rates}
        if not rows.keys() >= set(keys.values()):
            return []
        values = {rate: rows[key]["metrics"][self.criterion] for rate, key in keys.items()}
        return [rate for rate, value in values.items() if value == min(values.values())]

    def trials(self, rows: Mapping[str, Row]) -> list[Trial]:
        """All trials that are known by now: those that choose, and the runs once they have chosen.

        Args:
            rows: the finished ones by their trials' keys.
        """
        tried = self.tried(rows)
        rates = self._best(tried, rows) if tried else [None]
        runs = [run for rate in rates[:1] for run in self._runs(rate)]
        return [*(self.offered[r] for r in tried), *runs]

    def n_trials(self, rows: Mapping[str, Row]) -> int:
        """All of them, those that are not known yet too.

        Args:
            rows: the finished ones by their trials' keys.
        """
        return len(self.tried(rows)) + len(self._runs(next(iter(self.choices), None)))

    @property
    def data(self) -> str:
        """What the data of its trials is called."""
        return self.trials({})[0].config.data

    @cached_property
    def _runs(self) -> Callable[[float | None], list[Trial]]:
        """Those at a rate, made when they are asked for, and once: a config takes its time."""
        return cache(self.make)
