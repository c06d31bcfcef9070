"""How building and training costs grow: peak memory and seconds, and fitted exponents.

    python -m weightcast_lab.bench.scale --rows results/scale.csv --figure docs/images/scale.svg

Building: a predicted layer of 4,096 units is made in a process of its own, whose peak resident
memory over what importing took is read from the system. One dictionary is the covariance of a
layer's inputs, given twice as many rows as inputs; the other a kernel on 7 x 7 points in 64 to 512
channels. The seconds and the memory of 4,096 and of 25,088 inputs are what the largest ones say.

Training: one of n_visible, n_units, fraction and columns is doubled, again and again, while the
others stay. The exponent is the slope of log(time) over log(size), least squares, of the medians
over rounds in which all sizes are timed in turn; beside it, the same of the counted multiply-adds.
A measured exponent below the counted one means that fixed costs and memory traffic still weigh.
"""

from __future__ import annotations

import csv
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import weightcast as wc
from weightcast_lab.bench.cases import find_case
from weightcast_lab.bench.contenders import PREDICTED, Contender, build
from weightcast_lab.bench.counts import count
from weightcast_lab.bench.protocol import training_step
from weightcast_lab.bench.scripts import make_parser, markdown, run_module, write_csv
from weightcast_lab.bench.timing import Spread, alternate

BUILDS = [("covariance", n) for n in (512, 1024, 2048, 4096)]
BUILDS += [("kernel", 49 * channels) for channels in (64, 128, 256, 512)]
FRACTION, COLUMNS, UNITS = 0.05, 10, 4096
KIBIBYTES_PER_MEBIBYTE = 1024

Fields = dict[str, Any]


@dataclass(frozen=True)
class LayerSize:
    """A layer and its rule, one number of which is doubled at a time."""

    n_visible: int = 1024
    n_units: int = 1024
    fraction: float = 0.1
    columns: int = 8


SERIES: dict[str, tuple[float, ...]] = {
    "n_visible": (512, 1024, 2048, 4096),
    "n_units": (512, 1024, 2048, 4096),
    "fraction": (0.025, 0.05, 0.1, 0.2),
    "columns": (4, 8, 16, 32),
}
DICTIONARIES = ("dct-folded", "gaussian", "grouped")


def build_layer(kind: str, n_visible: int) -> Fields:
    """Build one predicted layer and measure it; for a process that does nothing else."""
    layer = nn.Linear(n_visible, UNITS)
    if kind == "covariance":
        # Inputs of a decaying spectrum, as features have; made a block at a time.
        scale = torch.arange(1, n_visible + 1).rsqrt()
        inputs = torch.randn(2 * n_visible, n_visible).mul_(scale)
        rule = wc.Rule(wc.dictionaries.Covariance(), FRACTION, COLUMNS)
    else:
        inputs = None
        grid = wc.Grid((7, 7), channels=n_visible // 49)
        rule = wc.Rule(wc.dictionaries.Kernel(), FRACTION, COLUMNS, grid)
    before, start = _peak(), time.perf_counter()
    model = wc.convert(nn.Sequential(layer), {"0": rule}, inputs=inputs)
    seconds = time.perf_counter() - start
    del model
    return {
        "kind": kind,
        "n_visible": n_visible,
        "seconds": round(seconds, 3),
        "peak_mebibytes": round(_peak() - before, 1),
        "dense_mebibytes": round(4 * n_visible * UNITS / 2**20, 1),
    }


def _peak() -> float:
    """MiB that were resident at most so far; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_PER_MEBIBYTE


def measure_builds(threads: int, repeats: int) -> Iterator[Fields]:
    """Every build, each time in a new process."""
    for number in range(repeats):
        for kind, n_visible in BUILDS:
            arguments = ("--threads", str(threads), "--build", kind, str(n_visible))
            row = read_fields(run_module("weightcast_lab.bench.scale", *arguments))
            print(f"build {number + 1}/{repeats}: {row}", flush=True)
            yield {"study": "build", "repeat": number, **row}


def read_fields(line: str) -> Fields:
    """The fields of one build from ``name=value`` words."""
    words = dict(word.split("=") for word in line.split())
    return {k: v if k == "kind" else float(v) for k, v in words.items()}


def measure_training(rounds: int, batch: int) -> Iterator[Fields]:
    """Every series of every dictionary; the sizes of one series are timed in turn."""
    for dictionary in DICTIONARIES:
        for varied, values in SERIES.items():
            steps, counted = {}, {}
            for value in values:
                whole = value if varied == "fraction" else int(value)
                size = replace(LayerSize(), **{varied: whole})
                case = find_case(f"{size.n_visible}-{size.n_units}")
                contender = Contender(
                    PREDICTED, size.fraction, dictionary, size.columns, "factored"
                )
                model, _ = build(case, contender)
                x = case.inputs(batch)
                counted[value] = count(model, x, "factored").total
                steps[str(value)] = training_step(case, model, x).step
            taken = alternate(steps, rounds)
            print(f"train: {dictionary}, {varied}", flush=True)
            for value in values:
                spread = Spread.of(taken[str(value)])
                yield {
                    "study": "train",
                    "kind": dictionary,
                    "varied": varied,
                    "value": value,
                    "n": spread.n,
                    "milliseconds": round(1e3 * spread.median, 4),
                    "milliseconds_min": round(1e3 * spread.low, 4),
                    "milliseconds_max": round(1e3 * spread.high, 4),
                    "multiply_adds": counted[value],
                }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log(cost) over log(size), least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def report(rows: Sequence[Fields]) -> str:
    """Two tables in Markdown."""
    builds = [["dictionary", "inputs", "build, s", "peak memory, MiB", "dense W, MiB"]]
    for kind, n_visible in BUILDS:
        found = [
            row
            for row in rows
            if row["study"] == "build"
            and row["kind"] == kind
            and int(float(row["n_visible"])) == n_visible
        ]
        seconds, peaks = (
            Spread.of([float(row[key]) for row in found]) for key in ("seconds", "peak_mebibytes")
        )
        dense = float(found[0]["dense_mebibytes"])
        shown = f"{n_visible:,}", _show(seconds, 2), _show(peaks, 0), f"{dense:,.0f}"
        builds.append([kind, *shown])
    exponents = [["dictionary", *SERIES]]
    for kind in DICTIONARIES:
        cells = []
        for varied in SERIES:
            found = [row for row in rows if (row.get("kind"), row.get("varied")) == (kind, varied)]
            sizes = [float(row["value"]) for row in found]
            measured = exponent(sizes, [float(row["milliseconds"]) for row in found])
            counted = exponent(sizes, [float(row["multiply_adds"]) for row in found])
            cells.append(f"{measured:.2f} ({counted:z.2f})")
        exponents.append([kind, *cells])
    return f"{markdown(builds)}\n\n{markdown(exponents)}"


def _show(spread: Spread, digits: int) -> str:
    if spread.n == 1:
        return f"{spread.median:,.{digits}f}"
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}-{spread.high:,.{digits}f})"


def draw(rows: Sequence[Fields], file: Path) -> None:
    """Training time and counted multiply-adds over each size, both axes logarithmic."""
    import altair as alt

    points = []
    for row in rows:
        if row["study"] != "train":
            continue
        series = [r for r in rows if (r["kind"], r.get("varied")) == (row["kind"], row["varied"])]
        for what in ("milliseconds", "multiply_adds"):
            share = float(row[what]) / float(series[0][what])
            label = "measured" if what == "milliseconds" else "counted"
            point = {"cost over the smallest": share, "size": float(row["value"]), "cost": label}
            points.append(point | {"dictionary": row["kind"], "varied": row["varied"]})
    chart = (
        alt.Chart(alt.Data(values=points), width=150, height=130)
        .mark_line(point=True)
        .encode(
            x=alt.X("size:Q", scale=alt.Scale(type="log"), title=None),
            y=alt.Y("cost over the smallest:Q", scale=alt.Scale(type="log")),
            color=alt.Color("dictionary:N"),
            strokeDash=alt.StrokeDash("cost:N", sort=["measured", "counted"]),
        )
        .facet(facet=alt.Facet("varied:N", sort=list(SERIES), title=None), columns=2)
        .resolve_scale(x="independent")
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    chart.save(file)


def main() -> None:
    """Measure what the file does not hold yet, print tables, draw."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=Path, default=Path("scale.csv"), help="read if it exists")
    parser.add_argument("--figure", type=Path, help="an .svg, .png or .html file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3, help="of every build")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--build", nargs=2, metavar=("KIND", "N"), help="one build, and its row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.build:
        row = build_layer(options.build[0], int(options.build[1]))
        print(*(f"{name}={value}" for name, value in row.items()))
        return
    if not options.rows.exists():
        rows = [*measure_builds(options.threads, options.repeats)]
        rows += measure_training(options.rounds, options.batch)
        write_csv(options.rows, rows)
    with options.rows.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    print(report(rows))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
