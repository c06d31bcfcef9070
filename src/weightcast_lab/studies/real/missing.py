"""The rows of a study that its file does not have yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from weightcast_lab.bench.scripts import read_finished, say
from weightcast_lab.sweeps.rows import Row, append_row


def append_missing(file: Path, wanted: Iterable[tuple[str, int, Callable[[], Row]]]) -> None:
    """Make each row that is wanted and not there, one after the other, and say what it has.

    Args:
        file: of rows.
        wanted: a row's variant, its seed, and what makes it.
    """
    done = {(row["variant"], row["seed"]) for row in read_finished(file)}
    for variant, seed, make in wanted:
        if (variant, seed) not in done:
            row = make()
            append_row(file, row)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row["metrics"].items())
            say(f"{variant}, draw {seed}: {figures}")
