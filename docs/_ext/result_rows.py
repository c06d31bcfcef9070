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

import statistics
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from weightcast_lab.sweeps.chosen_rows import (
    Condition,
    entry,
    parse_pairs,
    read_any,
    select,
    text_of,
)
from weightcast_lab.sweeps.rows import Row

RESULTS = Path(__file__).parents[2] / "results"


def read_rows(name: str) -> list[Row]:
    """All rows of a file under results/."""
    return read_any(RESULTS / name)


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
