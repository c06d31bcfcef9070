"""Locks by which processes and threads write the files of a folder one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    It belongs to the whole process: threads do not keep each other out, and the first that lets go
    does so for all. :func:`claimed` is for them.

    Args:
        path: the lock's file; it is made where it is missing, and stays.
        shared: whether others may hold it too, all of them shared.
        wait: for others to let go; otherwise they are an error.

    Raises:
        BlockingIOError: somebody else holds the lock, and we do not wait.
        ValueError: on Windows, which has no such locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise ValueError("sweeps need the file locks of Linux and macOS: use WSL") from error
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a+b") as file:  # locks of this kind are not handed on to forked processes
        fcntl.lockf(file, mode if wait else mode | fcntl.LOCK_NB)
        yield


@dataclass
class _Claim:
    shared: bool
    holders: int = 0
    lock: ExitStack = field(default_factory=ExitStack)


_claims: dict[Path, _Claim] = {}
_claims_lock = threading.Lock()


@contextmanager
def claimed(path: Path, *, shared: bool) -> Iterator[None]:
    """Hold a lock against other processes and against the other threads of this one.

    Args:
        path: the lock's file, as :func:`locked` makes it.
        shared: whether others may hold it too, all of them shared.

    Raises:
        BlockingIOError: somebody else holds the lock.
        ValueError: on Windows, which has no such locks.
    """
    key = path.resolve()
    with _claims_lock:
        claim = _claims.get(key, _Claim(shared))
        # To open and close the file here would take the lock away from the thread that holds it.
        if claim.holders and not (shared and claim.shared):
            raise BlockingIOError(f"{path} is held by another thread of this process")
        if not claim.holders:
            claim.lock.enter_context(locked(path, shared=shared, wait=False))
            _claims[key] = claim
        claim.holders += 1
    try:
        yield
    finally:
        with _claims_lock:
            claim.holders -= 1
            if not claim.holders:
                del _claims[key]
                claim.lock.close()
