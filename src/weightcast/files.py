"""Files that are written whole or not at all, whenever the writing process is killed.

Each writer holds a lock on what it writes, so that the next one can tell the living from the dead,
whose leftovers it may remove.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a file that is open cannot be removed
    fcntl = None

_TOKEN_BYTES = 8


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, and wait until it is on the disk.

    Args:
        path: of the file; one that is there is replaced once the new one is complete.

    Yields:
        Where to write: an empty file beside ``path``, on the same disk.
    """
    with _partial(path) as partial:
        mode = partial.stat().st_mode  # as the umask has it, whatever a library makes of it
        yield partial
        partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    # The new name is on the disk only once its folder is.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(path: Path) -> None:
    """Remove what killed processes left of ``path``, and nothing that is being written now.

    Args:
        path: of the file. Where its file system has no locks, nobody may be writing it.
    """
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * _TOKEN_BYTES}"
    for partial in path.parent.glob(pattern):
        with contextlib.suppress(OSError):  # another has removed it, or has it open
            _remove_dead(partial)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, locked while it is written; removed if it is there at the end."""
    partial, descriptor = _create(path)
    try:
        if fcntl is None:
            os.close(descriptor)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        if fcntl is not None:
            os.close(descriptor)


def _create(path: Path) -> tuple[Path, int]:
    """A new file's name and its descriptor, which holds the lock."""
    while True:
        # Threads and machines that share the folder may write the same file: a pid would not do.
        partial = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}")
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # Before it was locked, another could take it for a dead one's.
        if _lock(descriptor, wait=True) and os.fstat(descriptor).st_nlink:
            return partial, descriptor
        os.close(descriptor)


def _remove_dead(partial: Path) -> None:
    """Remove a file unless its writer holds it."""
    descriptor = None if fcntl is None else os.open(partial, os.O_RDONLY)
    try:
        if descriptor is None or _lock(descriptor, wait=False):
            partial.unlink()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file for as long as the descriptor is open; False where another holds it."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True
