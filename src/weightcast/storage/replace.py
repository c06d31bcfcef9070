"""replacing: a folder is written beside its place, and then put there, whole or not at all.

    .name.TOKEN.new   being written; after the exchange, the folder that was replaced
    .name.TOKEN.old   the folder that was at ``name``, for as long as nothing is there

The second exists for a moment only, and only where two names cannot change places in one step;
:func:`set_aside` finds it if a saver died in that moment. Savers of one parent folder take turns
by a lock on that folder, which leaves nothing behind. Each holds a lock on the folder that it
writes, so that the next saver can tell the living from the dead, whose leftovers it removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weightcast.storage.exchange import exchange

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where savers must not meet, and leftovers stay
    fcntl = None


@contextmanager
def replacing(target: Path, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a new folder to write to; when the block ends, it is at ``target``, and on the disk.

    If the block raises, or writing fails, what was at ``target`` stays as it was. The same holds
    if the process is killed, up to the one step that replaces it.

    Args:
        target: the folder's place, where there is nothing, an empty folder, or one that
            ``may_replace`` accepts. Its parent must exist.
        may_replace: whether an existing folder may be replaced.

    Raises:
        ValueError: ``target`` holds something else.
        OSError: writing failed.
    """
    target = Path(os.path.realpath(target))  # a symbolic link stays, and what it names is replaced
    part = target.parent / f".{target.name}.{secrets.token_hex(8)}.new"
    with _locked(target.parent):
        _recover(target)
        _refuse_others(target, may_replace)  # while no other saver takes away what is looked at
        _remove_leftovers(target)
        part.mkdir()
        held = _hold(part)
    try:
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        with _locked(target.parent):
            _recover(target)
            _refuse_others(target, may_replace)
            _put_in_place(part, target)
            _sync(target.parent)
    finally:
        # Either not finished, or what was replaced.
        shutil.rmtree(part, ignore_errors=True)
        if held is not None:
            os.close(held)


def set_aside(target: Path) -> Path | None:
    """Where the folder is that belongs at ``target``, if a saver died while nothing was there.

    Args:
        target: the folder's place.
    """
    target = Path(os.path.realpath(target))
    if target.exists():
        return None
    return next(iter(_leftovers(target, "old")), None)


def _refuse_others(target: Path, may_replace: Callable[[Path], bool]) -> None:
    if target.exists() and not may_replace(target) and not _is_empty(target):
        raise ValueError(
            f"{target} exists and is no saved model, so it is not replaced: choose a new folder"
        )


def _is_empty(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())


def _put_in_place(part: Path, target: Path) -> None:
    """``part`` is at ``target``; what was there, if anything, is at ``part``."""
    if not target.exists():
        os.rename(part, target)
        return
    if exchange(part, target):
        return
    old = part.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        os.rename(old, target)
        raise
    os.rename(old, part)


def _recover(target: Path) -> None:
    """Put back what a dead saver had set aside."""
    old = set_aside(target)
    if old is not None:
        with contextlib.suppress(FileNotFoundError):  # where there are no locks, another did so
            os.rename(old, target)


def _leftovers(target: Path, kind: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.({kind})")
    if not target.parent.is_dir():
        return []
    return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]


def _remove_leftovers(target: Path) -> None:
    """Remove what dead savers left; those that live hold a lock on theirs."""
    for path in _leftovers(target, "new|old"):
        held = _hold(path)
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """A lock on a folder that ends with this process; None where another holds it, or none can."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold the lock on a folder in which something is replaced; without locks, do without."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Not by closing alone: a process that was forked meanwhile has the descriptor too.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt" and path.is_dir():  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
