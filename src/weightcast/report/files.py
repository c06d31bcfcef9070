"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


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
    drafts = {folder / f".{name}.{os.getpid()}": folder / name for name in files}
    try:
        for draft, data in zip(drafts, files.values(), strict=True):
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for draft, target in drafts.items():
            os.replace(draft, target)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
