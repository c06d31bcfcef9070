"""StateFolder: how far a pre-training has come, so that it can go on from there.

    pretraining.json         the configuration, written once
    layer-00.safetensors     after every epoch: V, bias, c, Adam's moments; in the file's metadata,
                             as JSON, the epochs done and their losses

Every file is written beside its place and moved there whole: whenever the process dies, the folder
holds the last finished epoch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weightcast.files import atomic_write, remove_leftovers, write_text

SCHEMA = 1
JSON_NAME = "pretraining.json"


class StateFolder:
    """The states of a pre-training's layers on disk, in a folder that is made if it is missing.

    ``config`` is all that decides the result, as JSON data. ``config["initial"]`` holds a digest
    of every layer's parameters: it must agree for layers that have no state yet, and tells nothing
    of the others, which may have been trained since.

    Raises:
        ValueError: a folder of another pre-training, naming what differs, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike[str], config: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        config = json.loads(json.dumps({"schema": SCHEMA, **config}, allow_nan=False))
        files = [self._file(n) for n in range(len(config["initial"]))]
        for file in (self.path / JSON_NAME, *files):  # of a process that was killed
            remove_leftovers(file)
        started = [n for n, file in enumerate(files) if file.exists()]
        if (self.path / JSON_NAME).exists():
            self._check(config, started)
        elif started:
            raise ValueError(
                f"{self.path} holds {self._file(started[0]).name} but no {JSON_NAME}: choose "
                "another folder, or empty this one"
            )
        else:
            write_text(self.path / JSON_NAME, json.dumps(config, indent=1))

    def save(self, number: int, facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a layer's state, JSON data and tensors, in place of the one before."""
        copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        metadata = {"state": json.dumps(facts, allow_nan=False)}
        with atomic_write(self._file(number)) as part:
            save_file(copies, part, metadata=metadata)

    def load(self, number: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """A layer's state as :meth:`save` was given it, or None; ValueError for a damaged file."""
        file = self._file(number)
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as handle:
                facts = json.loads(handle.metadata()["state"])
                return facts, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged ({error!r}): remove it, and this layer is trained again"
            ) from error

    def _file(self, number: int) -> Path:
        return self.path / f"layer-{number:02d}.safetensors"

    def _check(self, config: dict[str, Any], started: list[int]) -> None:
        try:
            stored = json.loads((self.path / JSON_NAME).read_text())
            initial = stored["initial"]
            for name in [name for n, name in enumerate(initial) if n in started]:
                if name in config["initial"]:
                    initial[name] = config["initial"][name]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path / JSON_NAME} is damaged ({error!r}): choose another folder"
            ) from error
        differences = list(_differences(stored, config))
        if differences:
            raise ValueError(
                f"{self.path} holds another pre-training: {'; '.join(differences[:5])}. Choose "
                "another folder, or call with the same arguments"
            )


def _differences(stored: Any, now: Any, name: str = "") -> Iterable[str]:
    """What differs between two JSON values, one text for each."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*stored, *now]):
            inner = f"{name}.{key}".lstrip(".")
            yield from _differences(stored.get(key), now.get(key), inner)
        if list(stored) != list(now) and stored.keys() == now.keys():
            yield f"the order of {name} was {', '.join(stored)}, is now {', '.join(now)}"
    elif stored != now:
        yield f"{name} was {json.dumps(stored)}, is now {json.dumps(now)}"
