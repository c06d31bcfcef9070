"""What the scripts of bench and studies share: command line, messages, files, tables, spread."""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightcast_lab.sweeps.rows import Row, read_rows


def make_parser(about: str | None) -> argparse.ArgumentParser:
    """A command line that shows a module's docstring as its help."""
    return argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def say(text: str) -> None:
    """Tell the user on stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def read_finished(*files: Path) -> list[Row]:
    """The rows of those files that are there."""
    return read_rows(file for file in files if file.exists())


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation, or the one value; empty where there is none."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; its first line are the headings."""
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with a cell for each field, in the order in which they first occur."""
    fields = dict.fromkeys(name for line in lines for name in line)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def run_module(module: str, *arguments: str) -> str:
    """What a module prints that is run in a process of its own.

    Raises:
        RuntimeError: the process failed; the message has its last line.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    return done.stdout
