"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from weightcast.files import whole


def write_text(path: str | Path, text: str) -> Path:
    """Write a file whole or not at all; missing folders are made."""
    path = Path(path)
    write_files(path.parent, {path.name: text.encode()})
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, all of them drafted before the first old one is replaced.

    Args:
        folder: it is made where it is missing.
        files: contents by name, replaced in this order: a page after what it speaks of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # left in the reverse order
        for name, data in reversed(list(files.items())):
            stack.enter_context(whole(folder / name)).write_bytes(data)
