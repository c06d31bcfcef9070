"""Executors take trials to other machines, and bring back what became of them."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from weightcast.files import write_text
from weightcast_lab.sweeps.attempt import ATTEMPTS, LOG, ROW, TRIAL
from weightcast_lab.sweeps.processes import read_text, run_in_folder
from weightcast_lab.sweeps.trial import Place

_RETRIES = 3


class Executor(Protocol):
    """Anything that runs functions as ``concurrent.futures`` does."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)``, now or later, here or elsewhere."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What a trial's process left behind.

    Args:
        row: the text of row.json; None where it failed.
        error: the traceback, or how the process ended; None where it did not fail.
        attempts: the text of attempts.log.
        log: what the process printed.
    """

    row: str | None
    error: str | None
    attempts: str = ""
    log: str = ""


def run_elsewhere(trial: str, place: Place, weightcast: str) -> Outcome:
    """Run a trial in a fresh process and a temporary folder, on whatever machine this is.

    Args:
        trial: as ``Trial.to_json()`` writes it.
        place: where it runs.
        weightcast: the sweep's version of weightcast.

    Raises:
        ValueError: another version of weightcast is installed here.
    """
    if version("weightcast") != weightcast:
        raise ValueError(
            f"this worker has weightcast {version('weightcast')}, the sweep {weightcast}: install "
            "the same version on all machines"
        )
    with tempfile.TemporaryDirectory(prefix="weightcast-") as name:
        folder = Path(name)
        write_text(folder / TRIAL, trial)
        error = run_in_folder(folder, place)
        row = None if error else (folder / ROW).read_text("utf-8")
        return Outcome(row, error, read_text(folder / ATTEMPTS), read_text(folder / LOG))


class RayExecutor:
    """Trials on a Ray cluster, whose machines have weightcast and the data where this one has.

    A trial whose worker is killed is run again by Ray, up to three times. Ray runs whatever its
    callers send it: connect to clusters in trusted networks only.

    Args:
        address: of the cluster: ``"auto"`` finds one on this machine, ``"HOST:6379"`` names one.
        place: what each trial takes of a machine: its threads, and a GPU if the accelerator is
            gpu. Give :func:`~weightcast_lab.sweeps.sweep.sweep` the same one.
    """

    def __init__(self, address: str, place: Place | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ValueError("Ray is not installed: pip install 'weightcast[ray]'") from error
        place = place or Place()
        self._ray: Any = ray
        self._functions: dict[Callable[..., Any], Any] = {}
        self._options = {
            "num_cpus": place.threads,
            "num_gpus": 1 if place.accelerator == "gpu" else 0,
            "max_retries": _RETRIES,
        }
        self._connected_before = ray.is_initialized()
        if not self._connected_before:
            try:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"no Ray cluster answers at {address!r} ({error}): start one with "
                    "`ray start --head`, and give the address that it prints"
                ) from error

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)`` on a machine of the cluster that has room."""
        if function not in self._functions:  # each is sent to the cluster once
            self._functions[function] = self._ray.remote(**self._options)(function)
        return self._functions[function].remote(*arguments).future()

    def shutdown(self) -> None:
        """Leave the cluster; what still runs there is ended."""
        if not self._connected_before:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()


def _knock(address: str) -> None:
    """Connect to a HOST:PORT, and go away: Ray would try for minutes, and say so every second."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
