"""docs/results.md: a line for every committed file, with a command and a page that there are."""

import importlib.util
import re
from pathlib import Path

import pytest

from weightcast_lab.studies.evidence import cells
from weightcast_lab.sweeps.backlog import CHOICES

LINE = re.compile(r"\| `([\w.]+)` \| .+ \| `(.+?)`.* \| (?:this one|\[.+\]\((.+)\)) \|")
LINES = [
    match.groups()
    for line in Path("docs/results.md").read_text("utf-8").splitlines()
    if (match := LINE.fullmatch(line))
]


QUEUE = {CHOICES, *(cell.file for cell in cells())}
"""The evidence queue's files, which are there once it has rows for them."""


def test_the_table_has_every_file_once_and_in_order():
    there = {path.name for path in Path("results").iterdir()}
    assert [file for file, _, _ in LINES] == sorted(there | QUEUE)


@pytest.mark.parametrize(("file", "command", "page"), LINES)
def test_its_command_and_its_page_are_there(file, command, page):
    first, *rest = command.split()
    if first == "python" and rest[0].startswith("examples/"):
        assert Path(rest[0]).is_file()
    elif first == "python":
        assert rest[0] == "-m"
        assert importlib.util.find_spec(rest[1]) is not None
    else:
        assert first == "weightcast"
        assert rest[0] in ("bench", "demo", "reproduce", "train")
    if file in QUEUE:
        assert rest[1] == "weightcast_lab.studies.evidence"
    elif rest[0] != "reproduce" and file != "windows_validation.csv":
        assert f"results/{file}" in command
    assert f"results/{file}" in Path("docs", page or "results.md").read_text("utf-8")
