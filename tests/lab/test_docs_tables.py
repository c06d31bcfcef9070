"""Every table of README and docs with measured numbers is what the rows give, cell by cell."""

import re

import pytest

from weightcast_lab.report import docs_tables
from weightcast_lab.report.docs_tables import differences, marked, pages, parse, plain, rewritten

PAGE = """Text.

<!-- table: python -m weightcast_lab.report.pivot results/digits.jsonl
     --lines "all | variant=dense" low-rank --cells "error={metrics.test_error:.2f}"; words: why -->
| variant | error | why |
|---|---|---|
| all | 3.77 ± 0.21 | it *is* |
| **low-rank** | **5.40 ± 0.44** | |

More text.
"""
MADE = PAGE.replace("|---|---|---|", "| --- | --- | --- |").replace("| |", "|  |")

HAND, ONE_DRAW = "counted by hand or by tests", "choices made by one draw; the section says so"
NO_ROWS = {
    ("docs/compress.md", "`refresh` | `target` | runs of a block | each layer's products"): HAND,
    ("docs/compress.md", "layer, share stored | singular vectors | orthonormal base, 2.5 atoms "
     "to one used | inputs themselves (`SparseAtoms`)"): ONE_DRAW,
    ("docs/compress.md", "share stored | singular vectors | largest scaled weights, V fitted | "
     "`SparseAtoms`"): ONE_DRAW,
    ("docs/compress.md", "layer, tokens | ridge 0.001 | OAS | ridge 0.01 | ridge 0.03 | "
     "ridge 0.1"): ONE_DRAW,
    ("docs/compress.md", "network | bits a number | bits for each dense weight | nats | "
     "over dense"): "studies.few_bits prints it, and writes no rows",
    ("docs/howto/distil.md", " | nats | over dense"): "the same network, one run each",
    ("docs/performance.md", "idea | expected | found"): "what was tried, in words",
    ("docs/results.md", "idea | effect at 5 % learned | kept"): "what was tried, in words",
}  # fmt: skip
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
    found = {(str(page), head) for page in pages() for head in unmarked(page.read_text("utf-8"))}
    assert found == {*NO_ROWS}


def test_a_table_is_written_with_the_authors_emphasis_and_words(tmp_path, capsys):
    file = tmp_path / "page.md"
    file.write_text(PAGE.replace("3.77", "3.76").replace("5.40", "5.4"), "utf-8")
    assert docs_tables.main([str(file)]) == 0
    assert file.read_text("utf-8") == MADE
    assert docs_tables.main([str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: written\n"


@pytest.mark.parametrize(
    ("cell", "wrong", "said"),
    [
        ("3.77 ± 0.21", "3.77 ± 0.22", "7: all, error: '3.77 ± 0.22', the rows give '3.77 ± 0.21'"),
        ("**low-rank**", "low", "8: low-rank, variant: 'low', the rows give 'low-rank'"),
        ("| error |", "| loss |", "5: variant, error: 'loss', the rows give 'error'"),
        ("| **low-rank** | **5.40 ± 0.44** | |\n", "", "8: low-rank, error: '', the rows"),
        ("More", "| more | 1 | |\nMore", None),
    ],
)
def test_a_cell_that_differs_is_named(tmp_path, capsys, cell, wrong, said):
    file = tmp_path / "page.md"
    file.write_text(PAGE.replace(cell, wrong), "utf-8")
    assert docs_tables.main(["--check", str(file)]) > 0
    assert f"{file}:{said or ''}" in capsys.readouterr().out
    assert file.read_text("utf-8") == PAGE.replace(cell, wrong)


def test_a_page_that_is_right_is_left_alone(tmp_path, capsys):
    file = tmp_path / "page.md"
    file.write_text(PAGE, "utf-8")
    assert docs_tables.main(["--check", str(file)]) == 0
    assert capsys.readouterr().out == ""


def test_a_new_comment_gets_its_tables():
    start, _, rest = PAGE.partition("\n| variant")
    made = rewritten(f"{start}\nMore text.\n")
    assert "| all | 3.77 ± 0.21 |  |\n| low-rank | 5.40 ± 0.44 |  |\n" in made
    assert rest.endswith(made[-12:])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rm -r results/digits.jsonl", "does not start with"),
        ("python -m pytest results/digits.jsonl", "does not start with"),
        ("python -m weightcast_lab.report.pivot README.md", "names no file of rows"),
    ],
)
def test_only_the_laboratorys_commands_on_rows_are_run(command, message):
    with pytest.raises(ValueError, match=message):
        rewritten(f"<!-- table: {command} -->\n")


def test_an_unmarked_table_is_found_by_its_decimals():
    bare = PAGE[PAGE.index("\n| variant") + 1 :]
    assert unmarked(bare) == ["variant | error | why"]
    assert unmarked(PAGE) == []
    assert unmarked("| a | b |\n|---|---|\n| 1.5 | from 2.5 |\n") == []
