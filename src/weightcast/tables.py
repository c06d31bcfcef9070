"""aligned: cells as lines of text, for tables that are printed."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]], n_names: int = 1) -> str:
    """Cells as lines of text: the first n_names columns to the left, the others to the right.

    Args:
        lines: equally many cells each.
        n_names: columns of words.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < n_names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
