"""Atomic writes: a file or folder is there whole or not at all, whenever its writer is killed.

    .name.TOKEN       a file that is being written
    .name.TOKEN.new   a folder that is being written; after the exchange, the one it replaced
    .name.TOKEN.old   the folder that was at ``name``, for as long as nothing is there

Each writer holds a lock on what it writes. The next one removes what is left of killed writers,
which nobody holds. The last of the three exists for a moment only, and only where two names cannot
change places in one step; :func:`set_aside` finds it if a writer was killed in that moment.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where writers of one folder must not meet
    fcntl = None

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How files in UTF-16 begin."""

# What a system or file system answers that cannot exchange two names.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, and wait until it is on the disk.

    It yields where to write: an empty file beside ``path``, which takes its place when complete.
    """
    part, lock = _create(path)
    try:
        mode = part.stat().st_mode  # as the umask has it, whatever a library makes of it
        yield part
        part.chmod(mode)
        _sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
    _sync(path.parent)  # the new name is on the disk only once its folder is


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with ~ and ~user replaced by home folders; a ValueError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}: write the folder's whole path") from error


def check_place(path: str | os.PathLike[str] | None, *, folder: bool = False) -> None:
    """Refuse, before work is done for it, a file or folder that could not be written.

    Nothing is left behind, and nothing is said of None.

    Args:
        path: where it will be; missing folders above it would be made.
        folder: whether it will be a folder, rather than a file that is written or appended to.

    Raises:
        ValueError: something else is there, or the folder above it is none, or is not writable.
    """
    if path is None:
        return
    path = user_path(path)
    try:
        if path.exists() and path.is_dir() != folder:
            raise ValueError(f"{path} is {'no' if folder else 'a'} folder: choose another name")
        if path.is_file():
            path.open("ab").close()
        above = next(place for place in path.absolute().parents if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error}): choose another place") from error


def read_text(path: Path) -> str:
    """A file of text in UTF-8, or in what its first bytes say (UTF-16), its lines ended alike.

    Raises:
        OSError: it cannot be read.
        ValueError: it is in another encoding, named by file and place.
    """
    return re.sub("\r\n?", "\n", decoded(path.read_bytes(), str(path)))


def decoded(data: bytes, where: str) -> str:
    """:func:`read_text`, of bytes that were read at ``where``."""
    wide = data[:2] in UTF_16
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"cannot read {where}: line {line} is no UTF-{'16' if wide else '8'} ({error.reason}): "
            "save the file as UTF-8"
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file in UTF-8, whole or not at all; missing folders are made."""
    path = Path(path)
    write_files(path.parent, {path.name: text.encode()})
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name: all are drafted before the first old one is replaced, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # left in the reverse order
        for name, data in reversed(list(files.items())):
            stack.enter_context(atomic_write(folder / name)).write_bytes(data)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers left of a file; without locks, nobody may be writing it now."""
    _remove_dead(path, "")


@contextmanager
def atomic_folder(target: Path, check: Callable[[Path], object]) -> Iterator[Path]:
    """Write a folder whole or not at all, and wait until it is on the disk.

    It yields where to write: a new folder beside ``target``, whose parent must exist. If the block
    raises, or writing fails, what was at ``target`` stays as it was. The same holds if the process
    is killed, up to the one step that replaces it. Writers of folders with one parent take turns by
    a lock on the parent. ``check`` raises an error if what is at ``target``, and no empty folder,
    may not be replaced.
    """
    target = Path(os.path.realpath(target))  # a symbolic link stays, and what it names is replaced
    part = _beside(target, ".new")

    def settle() -> None:  # while no other writer takes away what is looked at
        _recover(target)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            check(target)

    with ExitStack() as stack:
        with _held(target.parent, wait=True):
            settle()
            _remove_dead(target, r"\.new|\.old")
            part.mkdir()
            # Either not finished, or what was replaced.
            stack.callback(shutil.rmtree, part, ignore_errors=True)
            stack.enter_context(_held(part, wait=False))
        yield part
        for path in (*part.iterdir(), part):
            _sync(path)
        with _held(target.parent, wait=True):
            settle()
            _put_in_place(part, target)
            _sync(target.parent)


def set_aside(target: Path) -> Path | None:
    """Where the folder is that belongs at ``target``, if a writer died while nothing was there."""
    target = Path(os.path.realpath(target))
    return None if target.exists() else next(iter(_leftovers(target, r"\.old")), None)


def exchange(a: Path, b: Path) -> bool:
    """Let two existing names on one file system change places, so that neither is ever missing.

    False if this system cannot, and nothing was changed; an OSError if a name is missing.
    """
    library = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    first, second = os.fsencode(a), os.fsencode(b)
    if hasattr(library, "renameat2"):  # Linux: paths as they are, RENAME_EXCHANGE
        here, swap = ctypes.c_int(-100), ctypes.c_uint(2)
        failed = library.renameat2(here, first, here, second, swap)  # pyright: ignore[reportOptionalMemberAccess]
    elif hasattr(library, "renamex_np"):  # macOS: RENAME_SWAP
        failed = library.renamex_np(first, second, ctypes.c_uint(2))  # pyright: ignore[reportOptionalMemberAccess]
    else:
        return False
    code = ctypes.get_errno() if failed else 0
    if failed and code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(a), None, str(b))
    return not failed


def _put_in_place(part: Path, target: Path) -> None:
    """Move ``part`` to ``target``, and what was there, if anything, to ``part``."""
    if not target.exists():
        os.rename(part, target)
    elif not exchange(part, target):
        old = part.with_suffix(".old")
        os.rename(target, old)
        try:
            os.rename(part, target)
        except BaseException:
            os.rename(old, target)
            raise
        os.rename(old, part)


def _recover(target: Path) -> None:
    """Put back what a killed writer had set aside."""
    if old := set_aside(target):
        with suppress(FileNotFoundError):  # where there are no locks, another did so
            os.rename(old, target)


def _beside(path: Path, ending: str = "") -> Path:
    # Threads and machines that share the folder may write the same file: a pid would not do.
    return path.parent / f".{path.name}.{secrets.token_hex(8)}{ending}"


def _leftovers(path: Path, endings: str) -> list[Path]:
    """What :func:`_beside` named, with one of these endings."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}({endings})")
    with suppress(OSError):
        return [path.parent / name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    return []


def _remove_dead(path: Path, endings: str) -> None:
    """Remove leftovers that no writer holds; folders only where there are locks."""
    for leftover in _leftovers(path, endings):
        # Another may have removed it, or have it open.
        with suppress(OSError), _held(leftover, wait=False) as held:
            if endings and held:
                shutil.rmtree(leftover, ignore_errors=True)
            elif not endings and held is not False:
                leftover.unlink()


def _create(path: Path) -> tuple[Path, int | None]:
    """A new file beside ``path``, and the descriptor that holds its lock."""
    while True:
        part = _beside(path)
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if fcntl is None:
            os.close(descriptor)  # Windows removes and renames no file that is open
            return part, None
        _lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return part, descriptor
        os.close(descriptor)  # before it was locked, another writer removed it


@contextmanager
def _held(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Lock a file or folder, and yield what :func:`_lock` says."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield _lock(descriptor, wait=wait)
    finally:
        # Not by closing alone: a process that was forked meanwhile has the descriptor too.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Whether it could be locked: False where another holds it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt" and path.is_dir():  # where a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
