"""Time saving and loading beside safetensors alone, and compare files with the dense network's.

    python -m weightcast_lab.bench.saving --rows results/saving.csv

Time: six linear layers, 4096 by 4096, 100 million weights, of which a tenth is learned. Every round
times, in turn, ``wc.save``, ``wc.load``, what building the dictionaries takes of loading, and
safetensors with the same tensors. ``ratio_same`` is against safetensors doing the same work: a file
written beside the old one, brought to the disk, and put in its place; read into memory.
``ratio_bare`` is against ``save_file`` over the old file, with nothing brought to the disk, and
``load_file``, which maps the file and reads nothing yet. Ratios are formed round by round, of
saving plus loading less building.

Size: the network 784-500-500-10 with 5 % of its hidden weights learned from several dictionaries.
What the folder takes beyond the classifier is set against the safetensors file of the dense hidden
layers.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import weightcast as wc
from weightcast.dictionaries import SharedBases
from weightcast.layers import predicted_layers
from weightcast.storage import saved_bytes
from weightcast_lab.bench.scripts import make_parser, write_csv
from weightcast_lab.bench.timing import Spread, alternate, ratios
from weightcast_lab.sweeps.rows import Row, make_row

WIDTH, LAYERS, FRACTION, COLUMNS = 4096, 6, 0.1, 10
DICTIONARIES: dict[str, Callable[[], wc.dictionaries.Dictionary]] = {
    "dct": lambda: wc.dictionaries.DCT(),
    "grouped": lambda: wc.dictionaries.RandomConnections("grouped"),
}


def time_dictionary(name: str, rounds: int) -> Row:
    """Seconds of saving and loading the large network, and their ratios."""
    rule = wc.Rule(DICTIONARIES[name](), FRACTION, COLUMNS, wc.Grid.squarest(WIDTH))
    with torch.no_grad():
        dense = nn.Sequential(*(nn.utils.skip_init(nn.Linear, WIDTH, WIDTH) for _ in range(LAYERS)))
        for parameter in dense.parameters():
            parameter.zero_()
    model = wc.convert(dense, {"*": rule})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        wc.save(model, folder)
        seconds = alternate(make_actions(model, dense, rule, folder), rounds)
        n_bytes = saved_bytes(folder)
    return make_row(
        experiment="saving",
        variant=name,
        dataset="none",
        seed=0,
        config={"width": WIDTH, "layers": LAYERS, "fraction": FRACTION, "columns": COLUMNS,
                "threads": torch.get_num_threads()},
        counts={"dense": sum(p.numel() for p in dense.parameters()),
                "learned": sum(p.numel() for p in model.parameters())},
        metrics={"n": rounds, "folder_bytes": n_bytes} | compare_times(seconds),
    )  # fmt: skip


def make_actions(
    model: nn.Module, dense: nn.Module, rule: wc.Rule, folder: Path
) -> dict[str, Callable[[], object]]:
    """What is timed in turn, by name.

    Args:
        model: predicted.
        dense: that it was converted from.
        rule: of all its layers.
        folder: that the model is saved in; files of safetensors come beside it.
    """
    file, beside = folder.parent / "file", folder.parent / "beside"
    layers = predicted_layers(model)
    tensors = load_file(folder / "model.safetensors")
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    save_file(tensors, file)

    def build() -> None:
        bases = SharedBases()
        for key, layer in layers.items():
            indices = layer.atoms.indices
            type(layer).from_dense(
                dense.get_submodule(key), rule, seed=None, bases=bases, indices=indices
            )

    def save_whole() -> None:
        save_file(tensors, beside)
        _sync(beside)
        os.replace(beside, file)
        _sync(file.parent)

    return {
        "save": lambda: wc.save(model, folder),
        "safetensors_save": lambda: save_file(tensors, file),
        "safetensors_save_whole": save_whole,
        "load": lambda: wc.load(folder, dense),
        "build": build,
        "safetensors_load": lambda: load_file(file),
        "safetensors_read": lambda: [tensor.clone() for tensor in load_file(file).values()],
    }


def compare_times(seconds: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Each action's median, smallest and largest seconds, and the ratios to safetensors."""
    metrics: dict[str, float | None] = {}
    for key, values in seconds.items():
        spread = Spread.of(values)
        metrics |= {f"{key}_seconds": spread.median, f"{key}_min": spread.low}
        metrics[f"{key}_max"] = spread.high
    ours = [sum(times) for times in zip(seconds["save"], seconds["load"], strict=True)]
    beyond = [a - b for a, b in zip(ours, seconds["build"], strict=True)]
    for key, save, read in (
        ("same", "safetensors_save_whole", "safetensors_read"),
        ("bare", "safetensors_save", "safetensors_load"),
    ):
        theirs = zip(seconds[save], seconds[read], strict=True)
        ratio = ratios(beyond, [sum(times) for times in theirs])
        metrics |= {f"ratio_{key}": ratio.median, f"ratio_{key}_min": ratio.low}
        metrics[f"ratio_{key}_max"] = ratio.high
    return metrics


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def size_rows() -> list[Row]:
    """Bytes of the 5 % network's hidden layers over those of the dense ones."""
    d, kernel = wc.dictionaries, wc.kernels.SquaredExponential(length_scale=3.0)
    pairs: dict[str, tuple[Any, Any]] = {
        "local kernel, connections": (d.LocalKernel(kernel), d.RandomConnections("grouped")),
        "kernel, connections": (d.Kernel(kernel), d.RandomConnections()),
        "dct, dct": (d.DCT(), d.DCT()),
        "gaussian, gaussian": (d.RandomGaussian(), d.RandomGaussian()),
        "pca, pca": (d.PCA(), d.PCA()),
        "covariance, covariance": (d.Covariance(), d.Covariance()),
        "leading covariance": (d.Covariance(selection="leading"),) * 2,
    }
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 784, generator=generator)
    rows = []
    for name, (first, second) in pairs.items():
        columns = 1 if "pca" in name or "leading" in name else 20
        dense = nn.Sequential(
            nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10)
        )
        plan = {
            "0": wc.Rule(first, 0.05, columns, (28, 28)),
            "2": wc.Rule(second, 0.05, columns),
        }
        model = wc.convert(dense, plan, inputs=inputs)
        with tempfile.TemporaryDirectory() as folder:
            wc.save(model, Path(folder) / "model")
            save_file(dict(dense[:4].state_dict()), Path(folder) / "dense")
            classifier = sum(p.nbytes for p in dense[4].parameters())
            n_dense = (Path(folder) / "dense").stat().st_size
            predicted = saved_bytes(Path(folder) / "model") - classifier
        rows.append(
            make_row(
                experiment="saved_size",
                variant=name,
                dataset="none",
                seed=0,
                config={"fraction": 0.05, "columns": columns},
                counts={"learned": sum(p.numel() for p in model.parameters())},
                metrics={"bytes": predicted, "dense_bytes": n_dense, "share": predicted / n_dense},
            )
        )
    return rows


def lines_of(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """One line per number: these are no errors of networks, which a report would draw."""
    for row in rows:
        config = " ".join(f"{key}={value}" for key, value in row["config"].items())
        line = {"experiment": row["experiment"], "variant": row["variant"], "config": config}
        for metric, value in (row["counts"] | row["metrics"]).items():
            yield line | {"metric": metric, "value": value}


def print_times(row: Row) -> None:
    """Seconds and ratios of one dictionary, each with the smallest and the largest."""
    metrics = row["metrics"]
    print(f"\n{row['variant']}: {metrics['folder_bytes']:,} bytes, n = {metrics['n']}")
    for key in (name for name in metrics if name.endswith("_seconds")):
        name = key.removesuffix("_seconds")
        spread = f"({metrics[f'{name}_min']:.4f}-{metrics[f'{name}_max']:.4f})"
        print(f"  {name:28} {metrics[key]:.4f} s {spread}")
    for key in ("ratio_same", "ratio_bare"):
        spread = f"({metrics[f'{key}_min']:.2f}-{metrics[f'{key}_max']:.2f})"
        print(f"  {key:28} {metrics[key]:.2f} {spread}")


def main() -> None:
    """Time the large network, measure the small one's files, print and write both."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="alternations (default 9)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--rows", type=Path, help="write what was measured to this CSV file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [time_dictionary(name, arguments.rounds) for name in DICTIONARIES]
    for row in rows:
        print_times(row)
    sizes = size_rows()
    for row in sizes:
        print(f"{row['variant']:28} {row['metrics']['share']:.2%} of the dense file")
    if arguments.rows:
        write_csv(arguments.rows, [*lines_of([*rows, *sizes])])


if __name__ == "__main__":
    main()
