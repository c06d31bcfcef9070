"""exchange: two names change places in one step, where the system has such a step."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

# What a system or file system answers that has no such step.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(a: Path, b: Path) -> bool:
    """Let two existing names on one file system change places, so that neither is ever missing.

    Args:
        a: a file or folder.
        b: another.

    Returns:
        Whether it was done; if not, nothing was changed, and this system cannot.

    Raises:
        OSError: it can, but one is missing, or may not be renamed.
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
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))
