"""Rows -> a table in Markdown: lines and columns by conditions, cells by formats.

    python -m weightcast_lab.report.pivot results/fig5.jsonl \
        --by labels.curve --across labels.fraction
    python -m weightcast_lab.report.pivot results/mnist.jsonl --where seed=0 --lines dense \
        "few | variant=2 % learned or 5 % learned" \
        --cells "learned={counts.learned:,}" "error={metrics.test_error:.2f}"

A line is a value of --by, or with --lines one of these values or ``TITLE | CONDITION``. A column is
a value of --across, or with --cells ``TITLE=FORMAT`` or ``TITLE=FORMAT | CONDITION``. In a format
``{entry:.2f}`` is the mean over the rows ± their standard deviation, ``{entry:,}`` the mean as a
whole number; ``!m`` takes the mean alone, ``!d`` the median, ``!p`` percent, ``!P`` the mean in
percent, ``!s`` the values as text. ``{above.entry}`` is the difference to the row of --against with
the same seed, ``{of.entry}`` the ratio. What is in [brackets] is left out where an entry is
missing.
"""

from __future__ import annotations

import operator
import re
import statistics
import string
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from weightcast_lab.bench.scripts import make_parser, markdown
from weightcast_lab.sweeps.chosen_rows import entry, parse_pairs, read_any, select, text_of
from weightcast_lab.sweeps.rows import Row


class Numbers(tuple[float, ...]):
    """One number of each row."""

    def __format__(self, spec: str) -> str:
        mean = statistics.fmean(self)
        if spec == ",":
            return f"{mean:,.0f}"
        spread = f" ± {statistics.stdev(self):{spec}}" if len(self) > 1 else ""
        return f"{mean:{spec}}{spread}"


class MissingEntryError(ValueError):
    """An entry that a row lacks."""


class Cell(string.Formatter):
    """Formats in which names are entries of rows.

    Args:
        rows: of one cell.
        against: the row to compare with, by seed.
    """

    def __init__(self, rows: Sequence[Row], against: Mapping[Any, Row]) -> None:
        self._rows, self._against = rows, against

    def text(self, style: str) -> str:
        """The cell."""

        def optional(match: re.Match[str]) -> str:
            try:
                return self.format(match[1])
            except MissingEntryError:
                return ""

        return self.format(re.sub(r"\[(.*?)\]", optional, style))

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Numbers, str]:
        """An entry's numbers, by its path.

        Raises:
            MissingEntryError: a row lacks it, or there is nothing to compare it with.
        """
        kind, _, path = field_name.partition(".")
        if kind not in ("above", "of"):
            return Numbers(self._values(self._rows, field_name)), field_name
        others = [row for one in self._rows if (row := self._against.get(one["seed"]))]
        if len(others) < len(self._rows) or (kind == "above" and others[0] is self._rows[0]):
            raise MissingEntryError(f"{field_name}: --against has no other row of the same seed")
        compare = operator.sub if kind == "above" else operator.truediv
        pairs = self._values(self._rows, path), self._values(others, path)
        return Numbers(map(compare, *pairs)), field_name

    @staticmethod
    def _values(rows: Sequence[Row], path: str) -> list[float]:
        values = [entry(row, path) for row in rows]
        if None in values:
            raise MissingEntryError(f"a row of {rows[0].get('variant')} has no {path}")
        return values

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Means, medians, percents."""
        if conversion == "s":
            return " or ".join(dict.fromkeys(map(text_of, value)))
        if conversion == "d":
            return statistics.median(value)
        if conversion in ("p", "P"):
            value = Numbers(100 * number for number in value)
        return statistics.fmean(value) if conversion in ("m", "P") else value


class Pivot:
    """A table of rows.

    Args:
        rows: that it is made from.
        by: paths of what names a line.
        against: a condition for the rows that differences are to; None for none.

    Raises:
        ValueError: two rows to compare with have one seed.
    """

    def __init__(self, rows: Sequence[Row], by: Sequence[str], against: str | None = None) -> None:
        self.rows, self.by = rows, by
        self._seen = {path: [*dict.fromkeys(entry(row, path) for row in rows)] for path in by}
        others = select(rows, parse_pairs(against)) if against else []
        self._against = {row["seed"]: row for row in others}
        if len(self._against) < len(others):
            raise ValueError(f"--against has {len(others)} rows of fewer seeds: narrow --where")

    def lines(self, named: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
        """The rows of each line, by its titles."""
        parts = [text.partition(" | ") for text in named]
        first = {
            title: select(self.rows, parse_pairs(condition or f"{self.by[0]}={title}"))
            for title, _, condition in parts
        }
        found: dict[tuple[str, ...], list[Row]] = {}
        for title, rows in first.items() if named else [("", self.rows)]:
            for row in sorted(rows, key=self._place):
                titles = [heading(path, entry(row, path)) for path in self.by]
                found.setdefault((title or titles[0], *titles[1:]), []).append(row)
        return found

    def _place(self, row: Row) -> tuple[float, ...]:
        """Numbers by size, words in the order in which they first occur."""
        values = [entry(row, path) for path in self.by]
        return tuple(
            value if isinstance(value, (int, float)) else self._seen[path].index(value)
            for path, value in zip(self.by, values, strict=True)
        )

    @staticmethod
    def columns(
        rows: Sequence[Row], cells: Sequence[str], across: str | None
    ) -> list[tuple[str, str, str]]:
        """Heading, format and condition of each column that some rows need."""
        found = []
        for text in cells:
            shown, _, condition = text.partition(" | ")
            title, _, style = shown.rpartition("=") if across is None else ("", "", shown)
            found.append((title, style, condition))
        if across is None:
            return found
        values = sorted({entry(row, across) for row in rows})
        return [
            (heading(across, value), style, f"{condition}; {across}={text_of(value)}")
            for value in values
            for _, style, condition in found
        ]

    def cell(self, rows: Sequence[Row], style: str, condition: str) -> str:
        """One cell, empty where there are no rows.

        Raises:
            ValueError: two of the rows are of one seed, or of none and no median is asked for.
        """
        try:
            kept = select(rows, parse_pairs(condition))
        except ValueError:
            return ""
        seeds = [row.get("seed") for row in kept]
        if len(set(seeds)) < len(seeds) and "!d" not in style:
            names = sorted({str(row.get("variant")) for row in kept})
            raise ValueError(f"a cell has rows of {names} with the seeds {seeds}: narrow --where")
        return Cell(kept, self._against).text(style)


def heading(path: str, value: Any) -> str:
    """What names a value: a fraction in percent, else the value."""
    return f"{100 * value:g} %" if path.endswith("fraction") else text_of(value)


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSON lines, or a CSV")
    parser.add_argument("--where", default="", help="a condition for all rows")
    parser.add_argument("--by", nargs="+", default=["variant"], help="paths that name a line")
    parser.add_argument("--lines", nargs="+", default=[], help="which, in this order")
    parser.add_argument("--across", help="the path that names a column")
    parser.add_argument("--cells", nargs="+", default=["{metrics.test_error:.2f}"])
    parser.add_argument("--against", help="a condition for the rows that differences are to")
    parser.add_argument("--first", nargs="+", help="headings of the lines' names; default: --by")
    parser.add_argument("--transpose", action="store_true", help="a line for each cell")
    parser.add_argument("--last", action="store_true", help="of what was run twice take the last")
    options = parser.parse_args()
    rows = select([r for f in options.files for r in read_any(f)], parse_pairs(options.where))
    if options.last:
        rows = [*{(row["variant"], row["seed"]): row for row in rows}.values()]
    pivot = Pivot(rows, options.by, options.against)
    lines = pivot.lines(options.lines)
    columns = pivot.columns([*chain(*lines.values())], options.cells, options.across)
    first = options.first or [path.rpartition(".")[2] for path in options.by]
    table = [[*first, *(title for title, _, _ in columns)]]
    for titles, found in lines.items():
        table.append([*titles, *(pivot.cell(found, style, where) for _, style, where in columns)])
    print(markdown([*map(list, zip(*table, strict=True))] if options.transpose else table))


if __name__ == "__main__":
    main()
