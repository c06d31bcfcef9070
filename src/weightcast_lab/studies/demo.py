"""The demo: dense, 5 % learned, 2 % learned, narrow dense and low-rank networks, side by side.

All are the reference network 784-500-500-10 or a smaller one, trained in the same way on the same
images; a row says what became of each run. References: Denil et al. 2013, figures 1 and 4.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from weightcast.cli.result_rows import row_counts
from weightcast.layers.counts import ledger
from weightcast.storage import checkpoint_bytes
from weightcast_lab.studies.figure1 import figure1
from weightcast_lab.sweeps.rows import Row, append_row, make_row
from weightcast_lab.sweeps.variants import COLUMNS, KERNEL, Variant, make_config, make_variants
from weightcast_lab.training import (
    Batches,
    FitResult,
    Images,
    TrainConfig,
    TrainingSettings,
    fit,
    load_images,
)
from weightcast_lab.training.build import build_model

# Of the learning rates 0.002, 0.005 and 0.01, tried on 800 of the 4,000 training digits, this one
# is the best for the dense network and for those with windows; others differ by up to 1 point.
DIGITS = TrainingSettings(epochs=25, learning_rate=5e-3, label_smoothing=0.1)
OTHER_DATA = TrainingSettings(epochs=10, learning_rate=2e-3, label_smoothing=0.1)


def compare(
    data: str = "digits",
    seeds: int = 3,
    epochs: int | None = None,
    rows: Path | None = None,
    replace_rows: bool = False,
    progress: bool = True,
) -> tuple[list[Row], dict[str, Any]]:
    """Train every variant from every seed.

    Args:
        data: ``digits`` (5,000 of MNIST), a local folder, or a name on the Hub.
        seeds: runs of each variant, seeds 0, 1, ...; the seed draws initial weights, atoms and the
            order of the images.
        epochs: passes over the training images; None takes 25 for the digits, 10 for other data.
        rows: a file that each row is appended to as soon as its run is finished.
        replace_rows: whether that file is removed first, once all arguments are found good.
        progress: whether to show it on stderr.

    Returns:
        The rows, and the data of figure 1 for the first dense network.

    Raises:
        ValueError: no seeds or epochs, or data that cannot be read.
        Interrupted: Ctrl-C; the rows of finished runs are in the file.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: every network needs at least 1 run")
    settings = training_settings(data, epochs)
    images = load_images(data).standardised()
    source = images.name if Path(data).is_dir() else data  # rows tell no one where it lay
    variants = make_variants(images)
    if rows is not None and replace_rows:
        rows.unlink(missing_ok=True)
    finished: list[Row] = []
    figure: dict[str, Any] = {}
    with _one_thread(), _DemoProgress(len(variants) * seeds, images, settings, progress) as bar:
        for seed in range(seeds):
            for variant in variants:
                config = make_config(variant, source, settings, seed)
                model = build_model(config, images)
                with bar.run(model, f"{variant.name}, seed {seed}") as report:
                    result = fit(model, images, settings, seed=seed, progress=False)
                    report(result)
                row = _make_row(variant, config, images, model.cpu(), result)
                finished.append(row)
                if rows is not None:
                    append_row(rows, row)
                if not figure:
                    figure = figure1(model, images, KERNEL, columns=COLUMNS)
    return finished, figure


def training_settings(data: str, epochs: int | None = None) -> TrainingSettings:
    """How all variants are trained on this data.

    Raises:
        ValueError: fewer epochs than 1.
    """
    settings = DIGITS if data == "digits" else OTHER_DATA
    return settings if epochs is None else replace(settings, epochs=epochs)


def _make_row(
    variant: Variant, config: TrainConfig, images: Images, model: nn.Module, result: FitResult
) -> Row:
    counts = row_counts(ledger(model, batch=config.training.batch_size))
    row = make_row(
        experiment=config.experiment,
        variant=variant.name,
        dataset=images.name,
        seed=config.seed,
        config=config.to_dict(),
        counts=counts | {"train_images": len(images.train[1]), "test_images": len(images.test[1])},
        metrics={
            "test_error": result.test_error,
            "train_loss": result.train_loss,
            "train_seconds": result.train_seconds,
            "checkpoint_bytes": checkpoint_bytes(model),
        },
    )
    return row | {"description": variant.description}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: more gain little with networks this small.

    And where other programs want the cores too, threads that wait for each other lose tenfold, and
    some networks more than others: the times would not compare.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _DemoProgress:
    """One bar over the steps of all runs on a terminal; a line per run in a log."""

    def __init__(
        self, n_runs: int, images: Images, settings: TrainingSettings, shown: bool
    ) -> None:
        n_steps = Batches(images.train, settings.batch_size, seed=0).n_batches * settings.epochs
        size = shutil.get_terminal_size()
        self.shown = shown
        self.bar = tqdm(
            total=n_runs * n_steps,
            bar_format="{percentage:3.0f}% |{bar:12}| {remaining} left: {desc}{postfix}",
            # 80 x 24 where the terminal does not tell its size, and tqdm would draw nothing.
            ncols=size.columns,
            nrows=size.lines,
            disable=not (shown and sys.stderr.isatty()),
            leave=False,
        )

    def __enter__(self) -> _DemoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @contextmanager
    def run(self, model: nn.Module, label: str) -> Iterator[Any]:
        """Count the training steps of one run; the result is reported to what this yields."""
        started = time.perf_counter()
        self.bar.set_description_str(label)

        def count(module: nn.Module, *_: object) -> None:
            if module.training:
                self.bar.update()

        def report(result: FitResult) -> None:
            self.bar.set_postfix_str(f"last run {result.test_error:.2f} % wrong")
            if self.shown and self.bar.disable:
                seconds = time.perf_counter() - started
                text = f"{label}: test error {result.test_error:.2f} %, {seconds:.1f} s"
                print(text, file=sys.stderr, flush=True)

        # A hook on the whole network: nothing inside it is touched, and it is gone when saved.
        hook = model.register_forward_hook(count)
        try:
            yield report
        finally:
            hook.remove()
