"""A trial: one frozen config that decides a result, named by what it holds."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from weightcast.serialization import decode
from weightcast_lab.sweeps.rows import Row

STUDIES = {
    "train": "weightcast_lab.studies.train",
    "filters": "weightcast_lab.studies.filters",
    "speech": "weightcast_lab.studies.speech",
    "rica": "weightcast_lab.studies.rica",
    "choice": "weightcast_lab.studies.choice",
    "deep": "weightcast_lab.studies.deep.deep_trials",
    "deep-choice": "weightcast_lab.studies.deep.deep_trials",
    "adapt": "weightcast_lab.studies.adapting.on_glosses",
    "adapt-choice": "weightcast_lab.studies.adapting.on_glosses",
    "adapt-plays": "weightcast_lab.studies.adapting.on_plays",
    "adapt-plays-choice": "weightcast_lab.studies.adapting.on_plays",
    "adapt-idea": "weightcast_lab.studies.adapting.ideas",
    "adapt-voices": "weightcast_lab.studies.adapting.on_voices",
    "adapt-voices-choice": "weightcast_lab.studies.adapting.on_voices",
    "adapt-pictures": "weightcast_lab.studies.adapting.on_pictures",
    "adapt-pictures-choice": "weightcast_lab.studies.adapting.on_pictures",
}
"""The study that runs each kind of trial. A trial's file can name these kinds and nothing else."""


@dataclass(frozen=True)
class Place:
    """Where a trial runs: nothing here changes what it computes, but for rounding.

    Args:
        data: where the data lies: a folder, a prepared .safetensors file or a name on the Hub; or
            such places by the data's names; None reads what the config's data names.
        accelerator: cpu, gpu, or auto: a GPU where there is one.
        threads: that one trial computes with.
        checkpoints: a folder, in the trial's own, for the state after each epoch, from which a
            trial that was cut off goes on; None keeps none, and it starts anew.
    """

    data: dict[str, str] | str | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 1
    checkpoints: str | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}: a trial computes with 1 or more")

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Place:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: no JSON, an unknown field or a bad value.
        """
        return decode(cls, _parse(text, "place"), "place")


TrialFunction = Callable[[Any, Place], Row]
"""What runs a trial: its config, and where it runs."""


@dataclass(frozen=True)
class _Kind:
    config: Any
    run: TrialFunction
    freeze: Callable[[Any], Any]


_kinds: dict[str, _Kind] = {}


@dataclass(frozen=True)
class Trial:
    """One run of an experiment; the same trial gives the same row, timings apart.

    Args:
        kind: what is run: an entry of ``STUDIES``.
        config: that kind's frozen config, with ``variant``, ``seed`` and ``to_dict``.
    """

    kind: str
    config: Any

    def __post_init__(self) -> None:
        freeze = _load(self.kind).freeze
        # As it will be read again, with 1.0 for 1: equal configs have one text and one folder.
        config = type(self.config).from_dict(self.config.to_dict())
        object.__setattr__(self, "config", freeze(config))

    @cached_property
    def key(self) -> str:
        """The folder's name: the first 16 hexadecimal digits of the JSON text's sha256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """What progress calls it: the variant and the seed."""
        return f"{self.config.variant or self.kind}, seed {self.config.seed}"

    def to_json(self) -> str:
        """The one JSON text of this trial: keys sorted, no spaces.

        Raises:
            ValueError: a value that JSON cannot hold, such as NaN.
        """
        data = {"kind": self.kind, "config": self.config.to_dict()}
        try:
            return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the trial {self.label} has no JSON form, so nothing can name its folder: {error}"
            ) from error

    @classmethod
    def from_json(cls, text: str, where: str = "trial") -> Trial:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON.
            where: how errors name it.

        Raises:
            ValueError: no JSON, an unknown kind or field, or a bad value.
        """
        data = _parse(text, where)
        if data.keys() != {"kind", "config"}:
            raise ValueError(f"{where}: a trial has 'kind' and 'config', not {sorted(data)}")
        try:
            return cls(data["kind"], _load(data["kind"]).config.from_dict(data["config"]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def run(trial: Trial, place: Place) -> Row:
    """Run a trial in this process.

    Raises:
        ValueError: what the trial's kind refuses, such as data that cannot be read.
    """
    return load_kind(trial.kind)(trial.config, place)


def runs_trials(
    kind: str, config: type, freeze: Callable[[Any], Any] = lambda config: config
) -> Callable[[TrialFunction], TrialFunction]:
    """Register a study's function as what runs the trials of a kind.

    Args:
        kind: an entry of ``STUDIES``.
        config: the frozen config of such trials.
        freeze: the config as a trial keeps it, without what a place decides.
    """

    def register(run: TrialFunction) -> TrialFunction:
        if run.__module__ == "__main__":  # a study as a program, for its table: it runs none
            return run
        assert STUDIES[kind] == run.__module__, f"{run.__module__} does not run {kind!r} trials"
        _kinds[kind] = _Kind(config, run, freeze)
        return run

    return register


def load_kind(kind: str) -> TrialFunction:
    """The function that runs trials of a kind.

    Raises:
        ValueError: no such kind.
    """
    return _load(kind).run


def _load(kind: str) -> _Kind:
    """A kind as its study has registered it, whose import takes seconds: only where needed."""
    if kind not in STUDIES:
        raise ValueError(f"there is no trial of kind {kind!r}; known: {', '.join(STUDIES)}")
    if kind not in _kinds:
        importlib.import_module(STUDIES[kind])
    return _kinds[kind]


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{where}: a {type(data).__name__}, where JSON's object is expected")
    return data
