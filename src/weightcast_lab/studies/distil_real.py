"""What 200 steps of ``distil`` give back: the two best ways to compress, at 40 % of the bytes.

    python -m weightcast_lab.studies.distil_real --fsdd FSDD --rows results/distil_real.jsonl

The networks, shares and calibration draws are those of ``compress_real``. Both ways leave a few
weights of each unit: ``weightcast.compress`` with nothing else said, and Wanda, whose weights
become V of ``SparseAtoms``. Then ``weightcast.distil``, with nothing else said but the steps,
teaches V and biases on the same calibration inputs. A row has the network before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

import weightcast as wc
from weightcast.dictionaries import SparseAtoms
from weightcast_lab.bench.scripts import make_parser
from weightcast_lab.studies.compress_real import OURS, TASKS, budget_for
from weightcast_lab.studies.real.compressors import wanda
from weightcast_lab.studies.real.missing import append_missing
from weightcast_lab.studies.real.task import Task
from weightcast_lab.studies.real.walk import gather, matrices
from weightcast_lab.sweeps.rows import Row, make_row

SHARE, STEPS, DRAWS, WINDOW = 0.4, 200, (0, 1, 2), 128
NETWORKS = ("efficientnet", "minilm", "smollm2", "crepe")
"""Without the LSTM: its matrices are parts of one module, and at 40 % it is as good as dense."""


def by_weightcast(task: Task, draw: int) -> nn.Module:
    """``compress`` to the bytes that the share leaves, the budget free to move among blocks."""
    n_weights = sum(matrix.W.numel() for matrix in matrices(task.model, task.modules))
    budget = budget_for(wc.ledger(task.model).total.stored, n_weights, SHARE)
    return wc.compress(task.model, inputs=task.calibration(draw), budget=budget, progress=False)


def by_wanda(task: Task, draw: int) -> nn.Module:
    """Wanda in every matrix: what it keeps of a unit are the atoms, its weights V, to the bit."""
    found = gather(task.model, task.modules, task.calibration(draw))
    dense, rules = [matrix.W for matrix in found], {}
    try:
        for matrix in found:
            W, kept = wanda(matrix.W, matrix.moments(), SHARE)
            matrix.put(W)
            rules[matrix.name] = wc.Rule(SparseAtoms(), n_atoms=kept.numbers // W.shape[1])
        return wc.compress(task.model, wc.Plan(rules), progress=False)
    finally:
        for matrix, W in zip(found, dense, strict=True):
            matrix.put(W)


WAYS: dict[str, Callable[[Task, int], nn.Module]] = {OURS: by_weightcast, "Wanda": by_wanda}
"""They return a copy; the task's network is the teacher."""


def taught(task: Task, way: str, draw: int) -> Row:
    """Compress, teach, and measure before and after."""
    small = WAYS[way](task, draw)
    before = {f"{name}_before": value for name, value in task.evaluate(small).items()}
    # Long windows of text are cut: a step costs as much as its tokens.
    inputs = [
        part
        for batch in task.calibration(draw)
        for part in (batch.split(WINDOW, 1) if batch.dtype == torch.long else [batch])
    ]
    started = time.perf_counter()
    losses = wc.distil(small, task.model, inputs, STEPS, seed=draw, progress=False).losses
    seconds = time.perf_counter() - started
    costs = {"first_loss": losses[0], "last_loss": losses[-1], "seconds": seconds}
    counted = wc.ledger(small).total
    row = make_row(
        experiment="distil_real",
        variant=f"{task.name}, {way}",
        dataset=task.dataset,
        seed=draw,
        config={"share": SHARE, "steps": STEPS},
        counts={"dense": counted.dense, "stored": counted.stored, "learned": counted.learned},
        metrics={**task.evaluate(small), **before, **costs},
    )
    return row | {"labels": {"network": task.name, "curve": way, "fraction": SHARE}}


def main() -> None:
    """Make what is missing, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--fsdd", type=Path, default=Path("../shared/data/fsdd"))
    parser.add_argument("--rows", type=Path, default=Path("results/distil_real.jsonl"))
    options = parser.parse_args()

    def wanted() -> Iterator[tuple[str, int, Callable[[], Row]]]:
        for network in options.networks:
            task = TASKS[network](options.fsdd)
            for draw in DRAWS:
                for way in WAYS:
                    yield f"{task.name}, {way}", draw, partial(taught, task, way, draw)

    append_missing(options.rows, wanted())


if __name__ == "__main__":
    main()
