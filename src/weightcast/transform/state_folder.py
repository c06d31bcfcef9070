"""StateFolder: how far some training has come, so that it can go on from there.

    pretraining.json         the configuration, written once
    layer-00.safetensors     now and then: what is trained, Adam's moments; in the file's metadata,
                             as JSON, how far it is and the losses so far

Every file is written beside its place and moved there whole: whenever the process dies, the folder
holds the last state that was written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weightcast.files import atomic_write, remove_leftovers, write_text

SCHEMA = 1


class StateFolder:
    """The states of what is trained on disk, in a folder that is made if it is missing.

    ``work`` names the training, and its JSON file. ``config`` is all that decides the result, as
    JSON data. ``config["initial"]`` holds a digest of the parameters of everything that is trained
    in its turn, layer by layer: it must agree for those that have no state yet, and tells nothing
    of the others, which may have been trained since.

    Raises:
        ValueError: a folder of another training, naming what differs, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike[str], work: str, config: dict[str, Any]) -> None:
        self.path, self.work = Path(path), work
        self._json = self.path / f"{work.replace('-', '')}.json"
        self.path.mkdir(parents=True, exist_ok=True)
        config = json.loads(json.dumps({"schema": SCHEMA, **config}, allow_nan=False))
        files = [self._file(n) for n in range(len(config["initial"]))]
        for file in (self._json, *files):  # of a process that was killed
            remove_leftovers(file)
        started = [n for n, file in enumerate(files) if file.exists()]
        if (self._json).exists():
            self._check(config, started)
        elif started:
            raise ValueError(
                f"{self.path} holds {self._file(started[0]).name} but no {self._json.name}: choose "
                "another folder, or empty this one"
            )
        else:
            write_text(self._json, json.dumps(config, indent=1))

    def save(self, number: int, facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write one state, JSON data and tensors, in place of the one before."""
        copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        metadata = {"state": json.dumps(facts, allow_nan=False)}
        with atomic_write(self._file(number)) as part:
            save_file(copies, part, metadata=metadata)

    def load(self, number: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """One state as :meth:`save` was given it, or None; ValueError for a damaged file."""
        file = self._file(number)
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as handle:
                facts = json.loads(handle.metadata()["state"])
                return facts, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged ({error!r}): remove it, and what it holds is trained again"
            ) from error

    def _file(self, number: int) -> Path:
        return self.path / f"layer-{number:02d}.safetensors"

    def _check(self, config: dict[str, Any], started: list[int]) -> None:
        try:
            stored = json.loads(self._json.read_bytes())
            initial = stored["initial"]
            for name in [name for n, name in enumerate(initial) if n in started]:
                if name in config["initial"]:
                    initial[name] = config["initial"][name]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self._json} is damaged ({error!r}): choose another folder"
            ) from error
        differences = list(_differences(stored, config))
        if differences:
            raise ValueError(
                f"{self.path} holds another {self.work}: {'; '.join(differences[:5])}. Choose "
                "another folder, or call with the same arguments"
            )


def digest(values: Iterable[tuple[str, Any]]) -> str:
    """A hash of named values: tensors by dtype, shape and content, all else by its repr."""
    hashed = hashlib.sha256()
    for name, value in values:
        hashed.update(name.encode())
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            hashed.update(flat.view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(repr(value).encode())
    return hashed.hexdigest()[:16]


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
