"""weightcast report: read result rows, print their tables, write the page and the pictures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "Draw result rows: tables here, and one page with pictures."
HELP = ""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("rows", nargs="+", metavar="ROWS.jsonl", help="files of result rows")
    parser.add_argument("--output", default="weightcast-report", help="folder for index.html")
    parser.add_argument("--images", type=bool, default=True, help="write SVG and PNG files too")


def run(options: Namespace) -> None:
    """Draw the rows of all files."""
    run_report(options.rows, options.output, options.images)


def run_report(
    rows: Sequence[str | Path], output: str | Path = "weightcast-report", images: bool = True
) -> Path:
    """Draw result rows of any experiments, and print them as tables.

    Args:
        rows: files of result rows (JSON lines); a run that appears in several counts once.
        output: folder for ``index.html`` and the pictures.
        images: whether to write an SVG and a PNG of each chart beside the page.

    Returns:
        The page's path.

    Raises:
        ValueError: no files, no rows, unreadable, incomplete or conflicting ones, named by file
            and line; nothing is written then.
    """
    from weightcast_lab.report.figures import make_figures
    from weightcast_lab.report.results import distinct, read_results
    from weightcast_lab.report.terminal import figure_tables
    from weightcast_lab.report.write import write_figures

    if not rows:
        raise ValueError("name at least one file of result rows: weightcast report ROWS.jsonl")
    results = distinct(read_results(rows))
    if not results:
        files = ", ".join(map(str, rows))
        raise ValueError(f"there are no rows in {files}: run an experiment first")
    figures = make_figures(results)
    text = figure_tables(figures)
    page = write_figures(figures, results, output, images)
    print(f"{text}\n\nOpen {page} in a browser.")
    return page
