"""Every table of README and docs with measured numbers is what the rows give, cell by cell."""

import re
from pathlib import Path

import pytest

from weightcast_lab.report import tables
from weightcast_lab.report.tables import differences, marked, pages, parse, plain, rewritten

NO_ROWS = {
}
"""Tables of measured numbers without rows, by page and first heading, and why."""

TABLE = re.compile(r"(?:^\|[^\n]*\n)+", re.MULTILINE)
MEASURED = re.compile(r"[-+]?\d[\d,]*\.\d|\.\d")


def measured(text):
    """Place and first line of the tables in which a cell but the first starts with a decimal."""
    for found in TABLE.finditer(text):
        head, *body = parse(found[0])[0]
        if any(MEASURED.match(plain(cell)) for line in body for cell in line[1:]):
            yield found.start(), " | ".join(map(plain, head))


def unmarked(text):
    """First lines of the measured tables for which no command is named."""
    places = [place for _, place in marked(text)]
    return [
        head
        for start, head in measured(text)
        if not any(place.start <= start < place.stop for place in places)
    ]


@pytest.mark.parametrize("page", [page for page in pages() if [*marked(page.read_text("utf-8"))]])
def test_cells_are_what_the_rows_give(page):
    assert differences(page) == []


def test_every_table_of_measured_numbers_is_made_from_rows_or_excused():
    found = {
        (str(page), head)
        for page in pages()
        for head in unmarked(page.read_text("utf-8"))
    }
    assert found == {*NO_ROWS}
