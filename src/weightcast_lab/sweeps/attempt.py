"""An attempt: the process that runs a trial, and the folder that the trial has for itself.

::

    trial.json    the trial; the folder is named by the first 16 digits of its sha256
    row.json      the result, written when all is done, and whole or not at all
    error.txt     the traceback, where the last attempt failed
    log.txt       what all attempts printed
    attempts.log  a line when an attempt starts and when it ends
    lock          held by the process that runs the trial
    checkpoints/  where the place asks for them, until the row is there

``python -m weightcast_lab.sweeps.attempt FOLDER`` runs the trial of a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from weightcast.files import write_text
from weightcast_lab.sweeps.locks import locked
from weightcast_lab.sweeps.rows import Row, read_rows
from weightcast_lab.sweeps.trial import Place, Trial, run

TRIAL, ROW, ERROR, LOG, ATTEMPTS, LOCK = (
    "trial.json",
    "row.json",
    "error.txt",
    "log.txt",
    "attempts.log",
    "lock",
)
FAILED, ABANDONED = 3, 4
"""Exit codes: the traceback is in error.txt; the process that waited for this one is gone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial of a folder, unless its row is there.

    Args:
        arguments: without the program's name; None takes the command line's.

    Returns:
        0 where the row is there now, 3 where the trial failed and error.txt says how.
    """
    parser = argparse.ArgumentParser("weightcast_lab.sweeps.attempt")
    parser.add_argument("folder", type=Path, help="holds trial.json")
    parser.add_argument("--place", default="{}", help="where it runs: JSON as Place.to_json()")
    parser.add_argument(
        "--while-stdin-is-open", action="store_true", help="end when the process at its end does"
    )
    options = parser.parse_args(arguments)
    if options.while_stdin_is_open:
        end_with(sys.stdin.fileno())
    return run_folder(options.folder, Place.from_json(options.place))


def run_folder(folder: Path, place: Place) -> int:
    """Run the trial of a folder in this process, unless its row is there.

    A second process waits until the first one is through, and then finds the row.

    Returns:
        0 where the row is there now, 3 where the trial failed and error.txt says how.

    Raises:
        ValueError: a folder without a readable trial, or with another trial's row.
    """
    with locked(folder / LOCK):
        trial = read_trial(folder)
        if read_row(folder, trial) is not None:
            return 0
        _note(folder, "start")
        (folder / ERROR).unlink(missing_ok=True)
        if place.checkpoints is not None:
            place = replace(place, checkpoints=str(folder / place.checkpoints))
        try:
            import torch

            torch.set_num_threads(place.threads)
            row = run(trial, place) | {"trial": trial.key}
            text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        except Exception:
            write_text(folder / ERROR, traceback.format_exc())
            _note(folder, "failed")
            return FAILED
        write_text(folder / ROW, text)
        with suppress(OSError):  # the row is there, whatever becomes of the rest
            _note(folder, "end")
            if place.checkpoints is not None:
                shutil.rmtree(place.checkpoints)
        return 0


def read_trial(folder: Path) -> Trial:
    """The trial of a folder.

    Raises:
        ValueError: no trial.json, or one that holds no trial.
    """
    path = folder / TRIAL
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return Trial.from_json(text, str(path))


def read_row(folder: Path, trial: Trial) -> Row | None:
    """The row of a finished trial, or None.

    Raises:
        ValueError: the folder holds another trial, or a row that is damaged or not this trial's.
            Rows are written whole or not at all, so something else has been at the file.
    """
    if not (folder / ROW).exists() and not (folder / TRIAL).exists():
        return None
    again = f"remove the folder {folder} to run the trial again, or sweep into another folder"
    try:
        other = (folder / TRIAL).read_bytes() != trial.to_json().encode()
    except OSError as error:
        raise ValueError(f"cannot read {folder / TRIAL}: {error.strerror}; {again}") from error
    if other:
        raise ValueError(f"{folder / TRIAL} is not the trial {trial.label}; {again}")
    if not (folder / ROW).exists():
        return None
    try:
        rows = read_rows(folder / ROW)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from error
    if len(rows) != 1:
        raise ValueError(f"{folder / ROW} holds {len(rows)} rows instead of one; {again}")
    if rows[0].get("trial") != trial.key:
        raise ValueError(
            f"{folder / ROW} is the row of trial {rows[0].get('trial')!r}, not of {trial.label} "
            f"({trial.key}); {again}"
        )
    return rows[0]


def keep_error(folder: Path, text: str) -> None:
    """Write error.txt, if the folder lets us: its trial has failed either way."""
    with suppress(OSError):
        write_text(folder / ERROR, text)


def end_with(descriptor: int) -> None:
    """End this process when the one at the other end of a pipe is gone.

    Args:
        descriptor: of our end; nothing is ever written to the other.
    """

    def watch() -> None:
        while os.read(descriptor, 1):  # a file object would be in the way at the end of main
            pass
        os._exit(ABANDONED)

    threading.Thread(target=watch, daemon=True).start()


def seconds_of(folder: Path) -> float | None:
    """Wall time of a trial that was done in one attempt; None of others, whose pauses are in it."""
    try:
        lines = [line.split() for line in (folder / ATTEMPTS).read_text("utf-8").splitlines()]
        (start, _, first), (end, _, last) = lines
    except (OSError, ValueError):
        return None
    if (first, last) != ("start", "end"):
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _note(folder: Path, event: str) -> None:
    """Append a line to the attempts: when, which process, what."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with (folder / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(f"{now} {os.getpid()} {event}\n")


if __name__ == "__main__":
    sys.exit(main())
