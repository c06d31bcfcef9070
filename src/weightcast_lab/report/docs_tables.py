"""The tables of README and docs, made from rows: each says by which command.

    python -m weightcast_lab.report.docs_tables              # write them anew, in place
    python -m weightcast_lab.report.docs_tables --check      # or say which cells differ, file:line

A comment before a table names the command that prints it, and that command the file of rows::

    <!-- table: python -m weightcast_lab.report.pivot results/fig5.jsonl
         --by labels.curve --across labels.fraction -->

What the command prints takes the place of the tables that follow, up to other text. The author's
are the emphasis of cells, and columns of words that the comment names at its end, ``; words:
HEADING, HEADING``: they are kept, line by line.
"""

from __future__ import annotations

import importlib
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from weightcast.files import write_text
from weightcast_lab.bench.scripts import make_parser, markdown

MARKED = re.compile(
    r"^<!-- table: (?P<command>.+?)(?:; words: (?P<words>[^;]+?))? -->\n"
    r"(?P<tables>(?:\|[^\n]*\n|\n(?=\|))*)",
    re.MULTILINE | re.DOTALL,
)
"""A comment, and the tables that follow."""

Table = list[list[str]]


@dataclass(frozen=True)
class MarkedTables:
    """What stands below one comment.

    Args:
        command: that prints it.
        words: headings of the author's columns.
        tables: as they stand; headings, then lines.
        lines: numbers of their first lines in the file.
    """

    command: str
    words: tuple[str, ...]
    tables: tuple[Table, ...]
    lines: tuple[int, ...]

    def made(self) -> list[Table]:
        """As the rows have it, with the author's emphasis and words."""
        old = {plain(table[0][0]): table for table in self.tables}
        return [
            self._kept(old.get(plain(table[0][0]), []), table) for table in parse(run(self.command))
        ]

    def _kept(self, old: Table, new: Table) -> Table:
        heads = [plain(cell) for cell in old[0]] if old else []
        before = {key: dict(zip(heads, line, strict=False)) for key, line in numbered(old)}
        made = []
        for key, line in numbered(new):
            was = before.get(key, {})
            cells = [
                emphasised(cell, was.get(head, "")) for head, cell in zip(new[0], line, strict=True)
            ]
            otherwise = self.words if line is new[0] else [""] * len(self.words)
            made.append([*cells, *map(was.get, self.words, otherwise)])
        return made

    def differences(self) -> Iterator[str]:
        """The cells in which it is not what the rows give, in words, after their line's number."""
        made = self.made()
        if len(made) != len(self.tables):
            yield f"{self.lines[0]}: {len(self.tables)} tables, the rows give {len(made)}"
        for start, old, new in zip(self.lines, self.tables, made, strict=False):
            for n, (was, given) in enumerate(zip_longest(old, new, fillvalue=[])):
                for head, left, right in zip_longest(new[0], was, given, fillvalue=""):
                    if plain(left) != plain(right):
                        where = start + n + (n > 0)
                        name = (given or was)[0]
                        yield f"{where}: {name}, {head}: {left!r}, the rows give {right!r}"


def numbered(table: Table) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Lines by their names, those of one name by their number."""
    seen: dict[str, int] = {}
    for line in table:
        name = plain(line[0])
        seen[name] = seen.get(name, 0) + 1
        yield (name if line is not table[0] else "", seen[name]), line


def plain(cell: str) -> str:
    """A cell without emphasis."""
    return cell.replace("*", "").strip()


def emphasised(cell: str, was: str) -> str:
    """A cell as the author has set it."""
    if plain(was) == plain(cell):
        return was
    stars = re.match(r"\**", was)
    return f"{stars[0]}{cell}{stars[0]}" if stars and cell else cell


def parse(text: str) -> list[Table]:
    """The tables of some Markdown."""

    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.strip()[1:-1].split("|")]

    blocks = [block.splitlines() for block in text.strip().split("\n\n") if block]
    return [[cells(line) for line in (block[0], *block[2:])] for block in blocks]


def marked(text: str) -> Iterator[tuple[MarkedTables, slice]]:
    """The comments of a page, with the place of their tables in its text."""
    for found in MARKED.finditer(text):
        start, old = found.start("tables"), found["tables"]
        firsts = [start, *(start + blank.end() for blank in re.finditer(r"\n\n", old))]
        lines = tuple(text.count("\n", 0, place) + 1 for place in firsts)
        words = tuple(word.strip() for word in (found["words"] or "").split(",") if word.strip())
        yield (
            MarkedTables(" ".join(found["command"].split()), words, tuple(parse(old)), lines),
            slice(start, found.end("tables")),
        )


def run(command: str) -> str:
    """What a command prints.

    Raises:
        ValueError: it is no module of the laboratory, or names no file under results/.
    """
    first, *arguments = shlex.split(command)
    module = arguments[1] if (first, *arguments[:1]) == ("python", "-m") else ""
    if not module.startswith("weightcast_lab."):
        raise ValueError(f"{command!r} does not start with python -m weightcast_lab.")
    if not any(argument.startswith("results/") for argument in arguments):
        raise ValueError(f"{command!r} names no file of rows: results/NAME")
    before, sys.argv = sys.argv, arguments[1:]
    try:
        with redirect_stdout(io.StringIO()) as printed:
            importlib.import_module(module).main()
    finally:
        sys.argv = before
    return printed.getvalue()


def rewritten(text: str) -> str:
    """A page with its tables as the rows have them."""
    for tables, place in reversed([*marked(text)]):
        made = "\n\n".join(map(markdown, tables.made()))
        text = f"{text[: place.start]}{made}\n{text[place.stop :]}"
    return text


def pages() -> list[Path]:
    """README and docs, of the folder that the command is run in."""
    return [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]


def differences(file: Path) -> list[str]:
    """All cells of a page that are not what the rows give."""
    text = file.read_text("utf-8")
    return [f"{file}:{what}" for tables, _ in marked(text) for what in tables.differences()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables anew, or with --check say what differs; the number of differing cells."""
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="pages; default: README.md and docs/")
    parser.add_argument("--check", action="store_true", help="say what differs, write nothing")
    options = parser.parse_args(arguments)
    found = 0
    for file in options.files or pages():
        if options.check:
            said = differences(file)
            print(*said, sep="\n", end="\n" if said else "")
            found += len(said)
        elif (made := rewritten(text := file.read_text("utf-8"))) != text:
            write_text(file, made)
            print(f"{file}: written")
    return found


if __name__ == "__main__":
    sys.exit(min(main(), 1))
