"""Savers that are killed: run by test_save_kill in a process of its own, which forks them.

    python -m tests.integration.killed_savers random FOLDER exchange|renames ROUNDS
    python -m tests.integration.killed_savers steps FOLDER exchange|renames

One line of JSON per saver: what it had saved for certain, what is loaded after it was killed, and
how many leftovers lay beside the folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import weightcast as wc
from weightcast import files
from weightcast.storage import tensors


def make_dense() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 4))


MODEL = wc.convert(make_dense(), {"0": wc.Rule(wc.dictionaries.DCT(), 0.5, 2), "*": None})


def save_number(folder: Path, number: int) -> None:
    """Save a model that is full of one number."""
    with torch.no_grad():
        for parameter in MODEL.parameters():
            parameter.fill_(number)
    wc.save(MODEL, folder)


def load_number(folder: Path) -> int:
    """The number that the saved model is full of, all of it."""
    parameters = list(wc.load(folder, make_dense()).parameters())
    numbers = {int(number) for p in parameters for number in p.flatten().tolist()}
    assert len(numbers) == 1, f"half of one model, half of another: {numbers}"
    return numbers.pop()


def beside(folder: Path) -> int:
    return len([path for path in folder.parent.iterdir() if path.name.startswith(".")])


def fork(work: Callable[[Callable[[int], None]], None]) -> tuple[int, int]:
    """A process that works and tells numbers; its id, and where to read them."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        work(lambda number: os.write(writing, f"{number}\n".encode()) and None)
    finally:
        os._exit(0)


def outcome(pid: int, reading: int, folder: Path, before: int) -> dict[str, Any]:
    """Wait for a process that was killed, and see what it left."""
    _, status = os.waitpid(pid, 0)
    with open(reading) as told:
        numbers = [before, *map(int, told.read().split())]
    return {
        "killed": os.WIFSIGNALED(status),
        "saved": numbers[-1],
        "leftovers": beside(folder),
        "loaded": load_number(folder),
    }


def random_moments(folder: Path, rounds: int) -> None:
    """Savers in a loop, each killed at a random moment."""
    choose = random.Random(0)
    number = 0
    start = time.perf_counter()
    for _ in range(5):
        save_number(folder, number)
    duration = (time.perf_counter() - start) / 5  # of one save, on a machine that may be busy
    for _ in range(rounds):
        first = number + 1

        def work(tell: Callable[[int], None], first: int = first) -> None:
            for next_number in range(first, first + 1000):
                save_number(folder, next_number)
                tell(next_number)

        pid, reading = fork(work)
        time.sleep(choose.uniform(0, 3 * duration + 0.01))
        os.kill(pid, signal.SIGKILL)
        found = outcome(pid, reading, folder, number)
        number = found["loaded"]
        print(json.dumps(found), flush=True)
    save_number(folder, number + 1)
    print(json.dumps({"leftovers": beside(folder), "loaded": load_number(folder)}), flush=True)


STEPS: list[tuple[Any, str]] = [
    (os, "mkdir"), (os, "open"), (os, "fsync"), (os, "rename"), (os, "unlink"), (os, "rmdir"),
    (files, "exchange"), (tensors, "_chunks"), (Path, "write_bytes"),
]  # fmt: skip


def every_step(folder: Path) -> None:
    """Savers that are killed just before each call that touches the disk, and just after."""
    number = 0
    save_number(folder, number)
    for owner, name in STEPS:
        for after in (False, True):
            for at in range(100):
                pid, reading = fork(lambda tell, o=owner, n=name, k=at, a=after, i=number + 1: (
                    die_at(o, n, k, a), save_number(folder, i), tell(i), None,
                )[-1])  # fmt: skip
                found = outcome(pid, reading, folder, number)
                number = found["loaded"]
                if not found["killed"]:  # it has no more such calls
                    break
                print(json.dumps(found | {"step": name, "at": at}), flush=True)
    save_number(folder, number + 1)
    print(json.dumps({"leftovers": beside(folder), "loaded": load_number(folder)}), flush=True)


def die_at(owner: Any, name: str, at: int, after: bool) -> None:
    """Let this process be killed at one call of a function."""
    function, calls = getattr(owner, name), iter(range(1_000_000))

    def deadly(*arguments: Any, **options: Any) -> Any:
        now = next(calls) == at
        if now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def main() -> None:
    torch.set_num_threads(1)
    kind, folder, swap = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if swap == "renames":
        files.exchange = lambda a, b: False
    if kind == "random":
        random_moments(folder, int(sys.argv[4]))
    else:
        every_step(folder)


if __name__ == "__main__":
    main()
