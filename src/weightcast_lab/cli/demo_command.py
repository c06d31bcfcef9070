"""weightcast demo: train the networks, print the table, write the page."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from weightcast.cli.result_rows import check_rows
from weightcast.files import check_place, user_path

SUMMARY = "Train dense, predicted, narrow and low-rank networks side by side; write a page."
HELP = ""

ROWS, FIGURE, PAGE = "rows.jsonl", "figure1.json", "index.html"
OUTPUT = "weightcast-demo"


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--data", default="digits", help="digits, a local folder, or a Hub name")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--output", help=f"folder for index.html; {OUTPUT} by default")
    parser.add_argument("--rows", help="append the result rows to this file (JSON lines)")


def run(options: Namespace) -> None:
    """Train the networks and draw them, with the options that were given."""
    names = ("data", "seeds", "epochs", "output", "rows")
    given = {name: getattr(options, name) for name in names}
    run_demo(**{name: value for name, value in given.items() if value is not None})


def run_demo(
    data: str = "digits",
    seeds: int = 3,
    epochs: int | None = None,
    output: str | Path = OUTPUT,
    rows: str | Path | None = None,
) -> None:
    """Train dense, predicted, narrow and low-rank networks side by side and write a page.

    Args:
        data: ``digits`` (5,000 of MNIST), a local folder, or a name on the Hub.
        seeds: runs of each network.
        epochs: passes over the training images; None takes 25 for the digits, 10 for other data.
        output: folder for the page, the rows and the data of figure 1.
        rows: a file to append the rows to; None replaces ``rows.jsonl`` in the output folder.

    Raises:
        ValueError: bad arguments, or data that cannot be read.
        Interrupted: Ctrl-C; rows of finished runs are kept, a page is not written.
    """
    from weightcast_lab.report import text_table, write_page, write_text
    from weightcast_lab.studies.demo import compare
    from weightcast_lab.training import Interrupted

    folder = user_path(output)
    check_place(folder, folder=True)
    file = folder / ROWS if rows is None else user_path(rows)
    check_rows(rows)
    try:
        finished, figure1 = compare(data, seeds, epochs, file, replace_rows=rows is None)
    except Interrupted as interrupt:
        raise Interrupted(f"{interrupt}; the rows of finished runs are in {file}") from None
    print(text_table(finished))
    # Kept beside the rows, so that the page can be drawn again without training.
    write_text(folder / FIGURE, json.dumps(figure1) + "\n")
    page = write_page(finished, figure1, folder / PAGE)
    print(f"\nOpen {page} in a browser; the rows are in {file}.")
