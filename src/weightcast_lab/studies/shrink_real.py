"""How small can a network become that others trained, if its error may grow by a point?

    python -m weightcast_lab.studies.shrink_real --fsdd FSDD --rows results/shrink_real.jsonl

``weightcast.shrink`` with nothing else said, on the digits CNN, MiniLM and CREPE, tiny and full,
for three draws of calibration inputs. The search looks at validation data; the network that it
finds is measured once on the test data. A row has its size, both errors, evaluations and minutes,
and the trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import nn

import weightcast as wc
from weightcast.transform.shrink import ShrinkTrial
from weightcast_lab.bench.scripts import make_parser
from weightcast_lab.studies.real.audio_tasks import PitchTracker
from weightcast_lab.studies.real.digits_task import DigitClassifier
from weightcast_lab.studies.real.language_tasks import SentenceEncoder
from weightcast_lab.studies.real.missing import append_missing
from weightcast_lab.studies.real.task import Task
from weightcast_lab.sweeps.rows import Row, make_row

DRAWS, TOLERANCE = (0, 1, 2), 1.0
TASKS: dict[str, Callable[[Path], Task]] = {
    "digits": lambda _: DigitClassifier(),
    "minilm": lambda _: SentenceEncoder(),
    "crepe tiny": lambda fsdd: PitchTracker(fsdd, "tiny"),
    "crepe": PitchTracker,
}


def shrunk(task: Task, draw: int) -> Row:
    """Shrink the network of a task, and measure what is found."""
    trials: list[ShrinkTrial] = []

    def error(model: nn.Module) -> float:
        return task.validate(model)["test_error"]

    started = time.perf_counter()
    small = wc.shrink(
        task.model, task.calibration(draw), error, TOLERANCE, seed=draw, callback=trials.append
    )
    minutes = (time.perf_counter() - started) / 60
    dense, found = (wc.ledger(model).total for model in (task.model, small))
    before, after = task.evaluate(task.model), task.evaluate(small)
    row = make_row(
        experiment="shrink_real", variant=task.name, dataset=task.dataset, seed=draw,
        config={"tolerance": TOLERANCE},
        counts={"dense": dense.stored, "stored": found.stored, "learned": found.learned},
        metrics={
            "test_error": after["test_error"], "dense_test_error": before["test_error"],
            "evaluations": len(trials) - 1, "minutes": minutes,
            "stored_share": found.stored_bytes / dense.stored_bytes,
        },
    )  # fmt: skip
    return row | {
        "shrink": {
            "tolerance": TOLERANCE,
            "higher_is_better": False,
            "trials": [asdict(t) for t in trials],
        }
    }


def main() -> None:
    """Make what is missing, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--fsdd", type=Path, default=Path("../shared/data/fsdd"))
    parser.add_argument("--rows", type=Path, default=Path("results/shrink_real.jsonl"))
    options = parser.parse_args()

    def wanted() -> Iterator[tuple[str, int, Callable[[], Row]]]:
        for network in options.networks:
            task = TASKS[network](options.fsdd)
            for draw in DRAWS:
                yield task.name, draw, partial(shrunk, task, draw)

    append_missing(options.rows, wanted())


if __name__ == "__main__":
    main()
