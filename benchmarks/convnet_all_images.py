"""Figure 5's best pair on all 50,000 training images, for a few epochs; a GPU can do more.

    python -m benchmarks.convnet_all_images --data path/to/cifar10 --rows fig5_all_images.jsonl

The dense network and "Emp-Emp leading" with a quarter and a tenth learned, all trained alike. A
sweep does the work, so that a second call does only what is missing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from weightcast.experiments.curves import DENSE
from weightcast.experiments.figure5 import LEADING, Setting, make_config
from weightcast.experiments.rows import append_row
from weightcast.experiments.sweep import sweep
from weightcast.experiments.trial import Place, Trial

POINTS = ((DENSE, 1.0, 1), (LEADING, 0.25, 2), (LEADING, 0.1, 4))
"""Curve, fraction and columns, as in the figure."""


def make_trial(
    name: str, fraction: float, columns: int, epochs: int, seed: int, data: str
) -> Trial:
    """One run on all images. Its experiment's name keeps it apart from the figure's rows."""
    config = make_config(name, fraction, Setting(columns, epochs), seed, data)
    return Trial("train", replace(config, experiment="fig5-all-images"))


def main() -> None:
    """Run what is missing, print the errors and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder, prepared file or Hub name")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)", help="in rows")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, help="runs at a time; one per core by default")
    parser.add_argument("--output", default="runs/convnet-all-images", help="the sweep's folder")
    parser.add_argument("--rows", type=Path, help="append the rows to this file (JSON lines)")
    options = parser.parse_args()
    trials = [
        make_trial(*point, options.epochs, seed, options.data_name)
        for seed in range(options.seeds)
        for point in POINTS
    ]
    result = sweep(trials, options.output, place=Place(data=options.data), jobs=options.jobs)
    for row in result.rows:
        print(f"{row['variant']:40s} seed {row['seed']}  {row['metrics']['test_error']:6.2f} %")
        if options.rows is not None:
            append_row(options.rows, row)


if __name__ == "__main__":
    main()
