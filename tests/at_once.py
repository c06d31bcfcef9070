"""Whether something answers at once, in a process that does other things besides."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def at_once(call: Callable[[], Answer], what: str = "a call", seconds: float = 1.0) -> Answer:
    """What `call` answers; fails, naming `what`, unless that took less than `seconds`.

    The processor's time of this process counts, but for collecting the garbage of 2,000 earlier
    tests, which would fall to whichever call comes next.
    """
    collecting = gc.isenabled()
    gc.disable()
    start = time.process_time()
    try:
        answer = call()
        took = time.process_time() - start
    finally:
        if collecting:
            gc.enable()
    assert took < seconds, f"{what} took {took:.2f} s"
    return answer
