"""Files that are written whole or not at all, whenever the writing process is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOKEN_BYTES = 8


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, and wait until it is on the disk.

    Args:
        path: of the file; one that is there is replaced once the new one is complete.

    Yields:
        Where to write: an empty file beside ``path``, on the same disk.
    """
    # Threads and machines that share the folder may write the same file: a pid would not do.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}")
    try:
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode  # as the umask has it, whatever a library makes of it
        yield partial
        partial.chmod(mode)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    # The new name is on the disk only once its folder is.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(path: Path) -> None:
    """Remove what killed processes left of ``path``; nobody may be writing it now."""
    for partial in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 2 * _TOKEN_BYTES}"):
        partial.unlink(missing_ok=True)
