"""How the windows were found: configurations of 784-500-500-10 on MNIST's validation digits.

    python -m weightcast_lab.studies.windows_validation --data path/to/mnist \
        --table runs/windows_validation.csv

``results/windows_validation.csv`` was measured by a prototype that trained many networks in one
program. Here each of its lines is a run of its own, as far as the package can say it: lines with
dictionaries, centres or rates that only the prototype had are counted and left out. A line says

    dense                                    all weights are learned
    se C20, n39, ls 2.0, mixing ridge        squared exponential of 2 px, 39 atoms, 20 columns
    loceig C20, n39, w 1.5, ls 3.0, pow 0.25, cen strat     eigenvectors through windows of 1.5 px
    orthob, gauss; onehot ... pos grouped    random orthonormal, Gaussian; grouped connections
    lr 0.002, ls 0.1, global, wd 0.01        rate, label smoothing, standardisation, weight decay

A sweep does the work, so that a second call does only what is missing.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weightcast.dictionaries import (
    Covariance,
    Dictionary,
    Kernel,
    LocalKernel,
    RandomConnections,
    RandomGaussian,
)
from weightcast.grid import Grid
from weightcast.kernels import Exponential, Matern, SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.bench.scripts import make_parser, say, write_csv
from weightcast_lab.studies.figure4 import IMAGE, N_CLASSES
from weightcast_lab.sweeps.curves import MARGIN
from weightcast_lab.sweeps.rows import Row
from weightcast_lab.sweeps.sweep import sweep
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.sweeps.variants import HIDDEN, matching_width
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings

LINES = Path("results/windows_validation.csv")
N_VISIBLE, EPOCHS, N_VALIDATION = IMAGE[0] * IMAGE[1], 10, 10_000
NARROW = "narrow dense"
LAYER = re.compile(r"(?P<kind>\w+) C(?P<columns>\d+), n(?P<atoms>\d+)(, (?P<more>.*))?")
OPTIMISER = re.compile(r"lr ([\d.]+), ls ([\d.]+), (global|none), wd ([\d.]+)")

_KERNELS: Mapping[str, Callable[[float], Any]] = {
    "se": SquaredExponential,
    "exp": Exponential,
    "m32": lambda length_scale: Matern(1.5, length_scale),
    "m52": lambda length_scale: Matern(2.5, length_scale),
}
_MIXINGS = {"mixing ridge": "ridge", "mixing ortho": "orthonormal", "mixing raw": "raw"}


def read_layer(text: str, n_visible: int, grid: Grid | None = None) -> Rule | None:
    """A layer's rule from its notation; None where the package has no such dictionary."""
    match = LAYER.fullmatch(text)
    if match is None:
        return None
    more = (match["more"] or "").split(", ") if match["more"] else []
    dictionary = _read_dictionary(match["kind"], more)
    if dictionary is None:
        return None
    return Rule(dictionary, int(match["atoms"]) / n_visible, int(match["columns"]), grid)


def _read_dictionary(kind: str, more: list[str]) -> Dictionary | None:
    fixed: dict[tuple[str, ...], Dictionary] = {
        ("orthob",): RandomGaussian("orthonormal"),
        ("gauss",): RandomGaussian(),
        ("onehot", "pos grouped"): RandomConnections("grouped"),
        ("onehot", "pos uniform"): RandomConnections(),
        ("cov", "mixing ridge"): Covariance(),
    }
    if (kind, *more) in fixed:
        return fixed[kind, *more]
    numbers = {name: value for name, _, value in (part.rpartition(" ") for part in more)}
    try:
        if kind in _KERNELS and len(more) == 2 and more[1] in _MIXINGS:
            return Kernel(_KERNELS[kind](float(numbers["ls"])), mixing=_MIXINGS[more[1]])  # pyright: ignore
        # Centres are a lattice in the package; the prototype's nearest to it were stratified.
        if kind == "loceig" and more[2:] == [f"pow {numbers.get('pow')}", "cen strat"]:
            kernel, window = SquaredExponential(float(numbers["ls"])), float(numbers["w"])
            margin = MARGIN * IMAGE[0]
            return LocalKernel(kernel, window, power=float(numbers["pow"]), margin=margin)
    except ValueError:  # several length scales
        return None
    return None


def make_config(line: Mapping[str, str], seed: int, data: str) -> TrainConfig | None:
    """The run of a line of the table; None where the package cannot say it.

    Args:
        line: its notation.
        seed: of the run.
        data: what the data is called.
    """
    optimiser = OPTIMISER.fullmatch(line["optimiser"])
    hidden, plan = HIDDEN, None
    if optimiser is None:
        return None
    if line["regime"] == NARROW:
        width = matching_width(int(line["learned"].replace(",", "")), N_VISIBLE, N_CLASSES)
        hidden = (width, width)
    elif line["layer1"] != "dense":
        first = read_layer(line["layer1"], N_VISIBLE, Grid(IMAGE))
        second = read_layer(line["layer2"], HIDDEN[0])
        if first is None or second is None:
            return None
        plan = Plan({"hidden1": first, "hidden2": second}).to_dict()
    rate, smoothing, _, decay = optimiser.groups()
    return TrainConfig(
        data=data,
        model=ModelSettings(hidden=hidden),
        plan=plan,
        training=TrainingSettings(
            EPOCHS,
            learning_rate=float(rate),
            label_smoothing=float(smoothing),
            weight_decay=float(decay),
        ),
        seed=seed,
        n_validation=N_VALIDATION,
        standardise=optimiser[3] == "global",
        experiment="windows-validation",
        variant=f"{line['layer1']}; {line['layer2']}; {line['optimiser']}; {line['learned']}",
    )


def table_line(line: Mapping[str, str], rows: Sequence[Row]) -> dict[str, Any]:
    """A line measured anew, without what its runs did on the test digits."""
    errors = [row["metrics"]["validation_error"] for row in rows]
    losses = [row["metrics"]["validation_loss"] for row in rows]
    spread = statistics.stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else 0.0
    return {
        "regime": line["regime"],
        "error_percent": f"{statistics.fmean(errors):.3f}",
        "standard_error": f"{spread:.3f}",
        "n": len(rows),
        "round": line["round"],
        "learned": f"{rows[0]['counts']['learned']:,}",
        "layer1": line["layer1"],
        "layer2": line["layer2"],
        "optimiser": line["optimiser"],
        "validation_nll": f"{statistics.fmean(losses):.4f}",
    }


def main() -> None:
    """Run what is missing and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="folder, prepared file or Hub name")
    parser.add_argument("--lines", type=Path, default=LINES, help="the table to measure anew")
    parser.add_argument("--most", type=int, help="so many lines of it, the first ones")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--output", default="runs/windows-validation", help="the sweep's folder")
    parser.add_argument("--table", type=Path, required=True, help="write the lines here, as CSV")
    options = parser.parse_args()
    with options.lines.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found: list[tuple[Mapping[str, str], list[Trial]]] = []
    for line in lines:
        configs = [make_config(line, seed, "mnist") for seed in range(options.seeds)]
        if trials := [Trial("train", config) for config in configs if config is not None]:
            found.append((line, trials))
    say(f"{len(found)} of {len(lines)} lines can be run; the others are the prototype's alone")
    found = found[: options.most]
    trials = {trial.key: trial for _, its_own in found for trial in its_own}
    rows = sweep(trials.values(), options.output, place=Place(data=options.data)).rows
    by_key = {row["trial"]: row for row in rows}
    write_csv(
        options.table,
        [
            table_line(line, [by_key[one.key] for one in its_own])
            for line, its_own in found
            if all(one.key in by_key for one in its_own)
        ],
    )


if __name__ == "__main__":
    main()
