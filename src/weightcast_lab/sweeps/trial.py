"""A trial: one frozen config that decides a result, named by what it holds.

``python -m weightcast_lab.sweeps.trial FOLDER`` runs the trial that ``FOLDER/trial.json`` holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from weightcast.serialization import decode
from weightcast_lab.sweeps.rows import Row

KINDS = ("train", "filters", "speech", "rica")


@dataclass(frozen=True)
class Place:
    """Where a trial runs: nothing here changes what it computes, but for rounding.

    Args:
        data: where the data lies: a folder, a prepared .safetensors file or a name on the Hub; or
            such places by the data's names; None reads what the config's data names.
        accelerator: cpu, gpu, or auto: a GPU where there is one.
        threads: that one trial computes with.
    """

    data: dict[str, str] | str | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 1

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


@dataclass(frozen=True)
class Trial:
    """One run of an experiment; the same trial gives the same row, timings apart.

    Args:
        kind: what is run: train, filters, speech or rica.
        config: that kind's frozen config, with ``variant``, ``seed`` and ``to_dict``.
    """

    kind: str
    config: Any

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        # As it will be read again, with 1.0 for 1: equal configs have one text and one folder.
        config = type(self.config).from_dict(self.config.to_dict())
        if self.kind == "train":
            config = _without_place(config)
        object.__setattr__(self, "config", config)

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
            return cls(data["kind"], _load(data["kind"])[0].from_dict(data["config"]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def run(trial: Trial, place: Place) -> Row:
    """Run a trial in this process.

    Raises:
        ValueError: what the trial's kind refuses, such as data that cannot be read.
    """
    return load_kind(trial.kind)(trial.config, place)


def _without_place(config: Any) -> Any:
    """A TrainConfig without what a place decides.

    Raises:
        ValueError: it asks for checkpoints, which a trial does not keep.
    """
    if config.training.test_weights == "best":
        raise ValueError(
            "test_weights is 'best', which needs checkpoints, and a trial keeps none: take 'last', "
            "or weightcast train"
        )
    return dataclasses.replace(config, output=None, accelerator="auto")


def load_kind(kind: str) -> Callable[[Any, Place], Row]:
    """The function that runs trials of a kind.

    Raises:
        ValueError: no such kind.
    """
    return _load(kind)[1]


def _load(kind: str) -> tuple[Any, Callable[[Any, Place], Row]]:
    """A kind's config class, and the function that runs it."""
    _check_kind(kind)
    # Each import takes seconds and is paid by every process: only the one that is needed.
    match kind:
        case "train":
            from weightcast_lab.studies import train as module
            from weightcast_lab.training import TrainConfig as Config
        case "filters":
            from weightcast_lab.studies import filters as module
            from weightcast_lab.studies.filters import FilterConfig as Config
        case "speech":
            from weightcast_lab.studies import speech as module
            from weightcast_lab.studies.speech import SpeechConfig as Config
        case _:
            from weightcast_lab.studies import rica as module
            from weightcast_lab.studies.rica import RicaConfig as Config
    return Config, module.run


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"there is no trial of kind {kind!r}; known: {', '.join(KINDS)}")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{where}: a {type(data).__name__}, where JSON's object is expected")
    return data


if __name__ == "__main__":
    from weightcast_lab.sweeps.attempt import main

    sys.exit(main())
