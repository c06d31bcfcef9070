"""Whether something answers at once, on a machine and in a process that do other things besides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def at_once(
    call: Callable[[], Answer], seconds: float = 1.0, what: str = "a call", tries: int = 3
) -> Answer:
    """What `call` answers; fails, naming `what`, unless one of `tries` took less than `seconds`.

    The processor's time of this process counts, and that is not all the call's own: the garbage
    of 2,000 earlier tests is collected at some moment, and their threads go on. What is slow by
    itself is slow each time.
    """
    took = []
    for _ in range(tries):
        start = time.process_time()
        answer = call()
        took.append(time.process_time() - start)
        if took[-1] < seconds:
            return answer
    raise AssertionError(
        f"{what}: {min(took):.2f} s at best of {tries}, and {seconds} s are enough"
    )
