"""open_folder: both files of a saved folder, from one and the same folder, nothing but files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from weightcast.files import set_aside
from weightcast.storage.format_error import FormatError
from weightcast.storage.manifest import JSON_NAME, TENSORS_NAME

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# A named pipe is opened without waiting for a writer, and a link not followed.
_FILE = _READ | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_ATTEMPTS = 100


@contextmanager
def open_folder(folder: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The manifest and the tensors' file of a folder, while it may be replaced.

    The folder is opened first, and its files by way of it: they belong together even if the
    folder is replaced between the two. Then the new one is opened.
    """
    manifest, tensors = _open_latest(folder)
    with manifest, tensors:
        yield manifest, tensors


@contextmanager
def open_files(manifest: Path, tensors: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The same two files, wherever they lie; links, as in a download cache, are followed."""
    with ExitStack() as stack:
        try:
            first, second = (
                stack.enter_context(open_regular(Path(os.path.realpath(path))))
                for path in (manifest, tensors)
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FormatError(f"is no saved model: {error.filename} is missing") from error
        yield first, second


def _open_latest(folder: Path) -> tuple[BinaryIO, BinaryIO]:
    for _ in range(_ATTEMPTS):
        before = _identity(folder)
        try:
            return _open_both(set_aside(folder) or folder)
        except (FileNotFoundError, NotADirectoryError):
            if _identity(folder) == before and set_aside(folder) is None:
                break  # not replaced meanwhile, but missing
    name = next((n for n in (JSON_NAME, TENSORS_NAME) if not (folder / n).is_file()), JSON_NAME)
    raise FormatError(f"is no saved model: {name} is missing")


def _open_both(folder: Path) -> tuple[BinaryIO, BinaryIO]:
    if os.open not in os.supports_dir_fd:  # Windows
        return open_regular(folder / JSON_NAME), open_regular(folder / TENSORS_NAME)
    descriptor = os.open(folder, _READ | os.O_DIRECTORY)
    try:
        first = open_regular(Path(JSON_NAME), descriptor)
        try:
            return first, open_regular(Path(TENSORS_NAME), descriptor)
        except BaseException:
            first.close()
            raise
    finally:
        os.close(descriptor)


def open_regular(path: Path, folder: int | None = None) -> BinaryIO:
    """Open a regular file (no link, folder, pipe or device) without waiting.

    ``folder`` is the descriptor of a folder from which ``path`` leads to it.
    """
    try:
        descriptor = os.open(path, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise FormatError(f"is not read: {path.name} is no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"is not read: {path.name} is no regular file")
    return open(descriptor, "rb", buffering=0)


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """Which folder is there, if any, and when its contents last changed."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
