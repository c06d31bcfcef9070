"""Result rows with their place in a file, each run counted once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weightcast_lab.report.entries import Row, entry
from weightcast_lab.sweeps.rows import OWN_RATE, check_entries, rows_in

BENCHMARKS = frozenset({"training_step", "bench"})
"""Experiments whose rows are measured times, without data set or seed."""

_NEEDED = ("experiment", "variant", "config", "metrics")
_NEEDED_OF_RUNS = (*_NEEDED, "dataset", "seed", "counts")

# Where a run took place and how long it took: not what it is, nor what came of it.
_PLACES = frozenset({"data", "data_name", "output", "accelerator", "threads", "device", "versions"})

# What a line takes for granted of all its points, and a chart of all its lines. Whatever else a
# configuration holds may follow from curve and fraction, as a narrow network's width does.
_TRAINING = ("training", "n_train", "n_validation", "standardise")
_KNOWN_LABELS = frozenset({"curve", "fraction", "columns", "activation", "pretrained"})


@dataclass(frozen=True)
class Result:
    """A row and where it was found.

    Args:
        row: the row.
        where: its file and line, or its number in a list.
    """

    row: Row
    where: str

    @property
    def experiment(self) -> str:
        """What the row is compared within."""
        return str(entry(self.row, self.where, "experiment"))

    @property
    def labels(self) -> dict[str, Any]:
        """What figures sort by; entries that are null say nothing."""
        labels = self.row.get("labels") or {}
        if not isinstance(labels, dict):
            raise ValueError(f"{self.where}: labels is {labels!r}, not an object")
        return {name: value for name, value in labels.items() if value is not None}

    @cached_property
    def family(self) -> str:
        """What all runs share whose errors may be averaged, as canonical JSON."""
        row = self.row
        if self.experiment in BENCHMARKS:
            return _canonical([self.experiment, row.get("variant"), row.get("config")])
        name = self.labels or {"variant": entry(row, self.where, "variant")}
        return _canonical([self.experiment, entry(row, self.where, "dataset"), name])

    @property
    def name(self) -> str:
        """The run in words."""
        seed = "" if self.experiment in BENCHMARKS else f", seed {self.row.get('seed')}"
        return f"{self.row.get('variant')!r} of {self.experiment}{seed}"


def located(rows: Sequence[Row], where: Sequence[str] | None = None) -> list[Result]:
    """Rows with names for messages: their numbers where no others are given."""
    names = where or [f"row {number}" for number in range(1, len(rows) + 1)]
    return [Result(row, name) for row, name in zip(rows, names, strict=True)]


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """Read all rows of several files, in order; empty lines are skipped.

    Raises:
        ValueError: no such file, or a line that is no row, named by file and line.
    """
    results = []
    for path in paths:
        for where, row in rows_in(path, "; delete the line and run what is missing again"):
            needed = _NEEDED if row.get("experiment") in BENCHMARKS else _NEEDED_OF_RUNS
            check_entries(row, where, needed)
            results.append(Result(row, where))
    return results


def distinct(results: Sequence[Result]) -> list[Result]:
    """Count each run once, only runs of one configuration under one name, and of one training.

    Args:
        results: rows of any experiments. Two are the same run if experiment, data set, labels
            (without labels: variant) and seed agree.

    Raises:
        ValueError: two rows of one run that differ in their configuration or in what was
            measured; seeds of one name with different configurations; or rows of one figure
            (experiment, data set) that were trained differently, with no label of their own to say
            so. Times may differ, and so may the place where a run took place.
    """
    runs: dict[tuple[str, Any], Result] = {}
    first_of: dict[str, Result] = {}
    for result in results:
        first = first_of.setdefault(result.family, result)
        same = runs.setdefault((result.family, str(result.row.get("seed"))), result)
        for other, seeds in ((same, "twice"), (first, "under one name")):
            skipped = _PLACES | ({"seed"} if other is first else set())
            difference = _difference(other, result, "config", skipped)
            if difference:
                raise ValueError(
                    f"{other.where} and {result.where} hold {result.name} {seeds}, but differ in "
                    f"{difference}: report them apart, or give them "
                    "different labels"
                )
        difference = _difference(same, result, "metrics", _PLACES)
        if difference:
            raise ValueError(
                f"{same.where} and {result.where} hold {result.name} twice, but differ in "
                f"{difference}: keep one of the two"
            )
    kept = list(runs.values())
    _check_training(kept)
    return kept


def _check_training(results: Sequence[Result]) -> None:
    """Let one figure hold only runs that were trained alike, but for what their labels say."""
    first_of: dict[tuple[str, str], Result] = {}
    for result in results:
        config, labels = result.row.get("config"), result.labels
        # Figure 1's lines are networks: each is one row at all its fractions.
        if "curve" not in labels or "figure" in result.row or not isinstance(config, dict):
            continue
        own = {name: value for name, value in labels.items() if name not in _KNOWN_LABELS}
        figure = _canonical([result.experiment, entry(result.row, result.where, "dataset"), own])
        names = (*_TRAINING, "pretraining") if labels.get("pretrained") is True else _TRAINING
        skipped = _PLACES | OWN_RATE.keys() if labels.items() >= OWN_RATE.items() else _PLACES
        for name in (name for name in names if name in config):
            first = first_of.setdefault((figure, name), result)
            difference = _difference(first, result, f"config.{name}", skipped)
            if difference:
                raise ValueError(
                    f"{first.where} and {result.where} would stand in one figure of "
                    f"{result.experiment}, but differ in {difference}: report such files apart, or "
                    "give one of them a label that says so"
                )


def _difference(one: Result, other: Result, name: str, skipped: frozenset[str]) -> str:
    """The first entry below this one in which two rows differ, in words; empty for none."""
    if one is other or _at(one.row, name) == _at(other.row, name):
        return ""
    left, right = (dict(_leaves(_at(result.row, name), name)) for result in (one, other))
    for path in sorted(left.keys() | right.keys()):
        if path.endswith("_seconds") or skipped.intersection(path.split(".")):
            continue
        if left.get(path) != right.get(path):
            return f"{path} ({left.get(path)!r} and {right.get(path)!r})"
    return ""


def _at(row: Row, path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
