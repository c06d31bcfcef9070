"""Tables and numbers of the site, read from results/*.jsonl whenever it is built.

A table has a line for each condition, and a column for each value of an entry::

    ```{results} fig4.jsonl
    :where: labels.activation=relu; labels.pretrained=false
    :columns: labels.fraction
    :values: test error, %=metrics.test_error
    dense | labels.curve=dense
    ours | labels.curve=SE-Emp; labels.columns=10
    ```

Without ``:columns:`` it has one for each of ``:values:``, ``heading=entry`` parted by ``;``. The
smallest mean of a column is bold with ``:best:``. A number in a sentence is
``{result}`mnist.jsonl | variant=dense | metrics.test_error```. Conditions that no row meets, and
runs with one seed that a condition does not tell apart, are errors.
"""

from __future__ import annotations

import json
import statistics
from csv import DictReader
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

RESULTS = Path(__file__).parents[2] / "results"

Row = dict[str, Any]
Condition = list[tuple[str, str]]


def entry(row: Row, path: str) -> Any:
    """The entry of a row at a path such as labels.curve; None where there is none."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text_of(value: Any) -> str:
    """An entry as conditions write it: 0.05, true, relu."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def parse_pairs(text: str) -> Condition:
    """``left=right`` pairs that semicolons part."""
    pairs = [part.split("=", 1) for part in text.split(";") if part.strip()]
    return [(left.strip(), right.strip()) for left, right in pairs]


def read_rows(name: str) -> list[Row]:
    """All rows of a file under results/: of JSON, or of a table with numbers and words."""
    lines = (RESULTS / name).read_text("utf-8").splitlines()
    if name.endswith(".csv"):
        return [{key: parse_cell(cell) for key, cell in row.items()} for row in DictReader(lines)]
    return [json.loads(line) for line in lines if line.strip()]


def parse_cell(text: str) -> Any:
    """A cell of a CSV file: a number where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def select(rows: list[Row], condition: Condition) -> list[Row]:
    """The rows that meet a condition.

    Raises:
        ValueError: there are none.
    """
    kept = [row for row in rows if all(text_of(entry(row, p)) == v for p, v in condition)]
    if not kept:
        raise ValueError(f"no row has {condition}")
    return kept


def cell(rows: list[Row], path: str) -> tuple[float, str]:
    """Mean, and mean ± standard deviation, of an entry over seeds; a count is written whole.

    Raises:
        ValueError: two of the rows are of one seed, or the entry is missing.
    """
    seeds = [row["seed"] for row in rows]
    values = [entry(row, path) for row in rows]
    if len(set(seeds)) < len(seeds) or not all(isinstance(v, (int, float)) for v in values):
        raise ValueError(f"{path} is {values} for the seeds {seeds}: one number for each is needed")
    mean = statistics.fmean(values)
    if path.startswith("config."):
        return mean, " or ".join(f"{value:g}" for value in sorted(set(values)))
    if all(isinstance(value, int) for value in values):
        return mean, f"{mean:,.0f}"
    spread = (
        f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{statistics.stdev(values):.2f}"
        if len(values) > 1
        else ""
    )
    return mean, f"{mean:.2f}{spread}"


def heading(path: str, value: Any) -> str:
    """A column's heading: a fraction in percent, else the value."""
    return f"{100 * value:g} %" if path.endswith("fraction") else text_of(value)


class ResultsTable(SphinxDirective):
    """The directive ``results``."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "where": directives.unchanged,
        "columns": directives.unchanged,
        "values": directives.unchanged_required,
        "first": directives.unchanged,
        "best": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """The table and what its numbers are, as nodes."""
        self.env.note_dependency(str(RESULTS / self.arguments[0]))
        try:
            text = self._markdown()
        except (ValueError, OSError) as error:
            raise self.error(f"results: {error}") from error
        return self.parse_text_to_nodes(text)

    def _markdown(self) -> str:
        where = parse_pairs(self.options.get("where", ""))
        rows = select(read_rows(self.arguments[0]), where)
        lines = [line.rpartition("|") for line in self.content if line.strip()]
        chosen = {name.strip(): select(rows, parse_pairs(text)) for name, _, text in lines}
        values = parse_pairs(self.options["values"])
        table = self._pivoted(chosen, values) if "columns" in self.options else {
            head: {name: cell(found, path) for name, found in chosen.items()}
            for head, path in values
        }  # fmt: skip
        best = "best" in self.options
        least = {head: min(found.values())[0] for head, found in table.items() if best}
        text = [f"| {' | '.join([self.options.get('first', ''), *table])} |"]
        text += [f"|---{'|--:' * len(table)}|"]
        for name in chosen:
            cells = [name]
            for head, found in table.items():
                mean, shown = found.get(name, (None, ""))
                cells.append(f"**{shown}**" if best and mean == least[head] else shown)
            text.append(f"| {' | '.join(cells)} |")
        n = sorted({row["seed"] for row in rows})
        what = f"{values[0][0]}; mean ± standard deviation" if "columns" in self.options else "Mean"
        note = f"*{what}, {len(n)} seeds. Rows: `results/{self.arguments[0]}`.*"
        return "\n".join([*text, "", note])

    def _pivoted(
        self, chosen: dict[str, list[Row]], values: Condition
    ) -> dict[str, dict[str, tuple[float, str]]]:
        """Cells by the heading of their column, then by line."""
        path = self.options["columns"]
        found = sorted({entry(row, path) for rows in chosen.values() for row in rows})
        return {
            heading(path, value): {
                name: cell(kept, values[0][1])
                for name, rows in chosen.items()
                if (kept := [row for row in rows if entry(row, path) == value])
            }
            for value in found
        }


class Result(SphinxRole):
    """The role ``result``: one number, mean and spread."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number as text."""
        name, condition, path = (part.strip() for part in self.text.split("|"))
        self.env.note_dependency(str(RESULTS / name))
        try:
            shown = cell(select(read_rows(name), parse_pairs(condition)), path)[1]
        except (ValueError, OSError) as error:
            message = self.inliner.reporter.error(f"result: {error}", line=self.lineno)
            return [], [message]
        return [nodes.Text(shown)], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("results", ResultsTable)
    app.add_role("result", Result())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
