"""Synthetic result rows of every figure, as the experiments write them."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]

CURVES = (
    "narrow",
    "LowRank",
    "RandCon-RandCon",
    "RandFixU-RandFixU",
    "SE-Emp",
    "SE-Emp2",
    "SE-AE",
    "Emp-Emp",
    "DCT-DCT",
    "Wavelet-Wavelet",
    "PCA-PCA",
    "SE-Emp leading",
    "SE-Emp pivoted",
    "SE-Emp orthonormal",
    "Local-Grouped",
)
FRACTIONS = (0.02, 0.05, 0.1, 0.25, 0.5)
SEEDS = 3


def labelled_row(
    experiment: str, curve: str, fraction: float, seed: int, error: float, **labels: Any
) -> Row:
    """One run of one curve; labels named ``dataset`` and ``..._error`` go where they belong."""
    dataset = labels.pop("dataset", "mnist")
    errors = {name: labels.pop(name) for name in list(labels) if name.endswith("_error")}
    labels = {"curve": curve, "fraction": fraction, **labels}
    return {
        "schema": 1,
        "experiment": experiment,
        "variant": ", ".join(map(str, labels.values())),
        "dataset": dataset,
        "seed": seed,
        "labels": labels,
        "config": {"seed": seed, "training": {"epochs": 4}},
        "counts": {"learned": round(1e5 * fraction)},
        "metrics": {"test_error": error, "train_seconds": 1.0, **errors},
        "versions": {"weightcast": "0.1.0"},
    }


def curve_rows(experiment: str, generator: np.random.Generator, **labels: Any) -> list[Row]:
    """All curves at all fractions, the dense network, and one fraction in other settings."""
    rows = []
    setting = {"columns": 10, "activation": "relu", "pretrained": False} | labels
    reference = {name: value for name, value in setting.items() if name != "columns"}
    for seed in range(SEEDS):
        error = 1.6 + 0.05 * generator.standard_normal()
        rows.append(labelled_row(experiment, "dense", 1.0, seed, error, **reference))
        for i, curve in enumerate(CURVES):
            for fraction in FRACTIONS:
                error = 1.5 + (0.02 + 0.02 * i) / fraction**0.8
                error += (0.05 + 0.01 * i) * generator.standard_normal()
                rows.append(labelled_row(experiment, curve, fraction, seed, error, **setting))
        for curve in ("SE-Emp", "RandCon-RandCon"):
            for other in ({"columns": 1}, {"columns": 20}, {"activation": "sigmoid"}):
                error = 3 + 0.2 * generator.standard_normal()
                values = setting | other
                rows.append(labelled_row(experiment, curve, 0.05, seed, error, **values))
    return rows


def speech_rows(generator: np.random.Generator) -> list[Row]:
    """Two curves with more than one measure."""
    rows = []
    for seed in range(SEEDS):
        for curve, at in (("dense", 10.0), ("Emp-Emp", 11.0), ("RandCon-RandCon", 14.0)):
            for fraction in (1.0,) if curve == "dense" else (0.05, 0.25):
                error = at + 0.3 / fraction + 0.2 * generator.standard_normal()
                extra = {"frame_error": 2 * error, "digit_error": error / 4, "dataset": "fsdd"}
                rows.append(labelled_row("speech", curve, fraction, seed, error, **extra))
    return rows


def figure(generator: np.random.Generator, size: int = 12, n_shown: int = 6) -> Row:
    """Filters and their predictions as figure 1 holds them."""
    axis = np.arange(size)
    filters = []
    for unit in range(n_shown):
        y, x = generator.uniform(2, size - 2, 2)
        true = np.exp(-((axis[:, None] - y) ** 2 + (axis - x) ** 2) / 6) - 0.2
        predicted = true + 0.1 * generator.standard_normal((size, size))
        known = sorted(generator.choice(size * size, size * size // 4, replace=False).tolist())
        filters.append(
            {
                "unit": unit,
                "r2": 0.5 + 0.07 * unit,
                "true": true.ravel().round(4).tolist(),
                "known": known,
                "predicted": predicted.ravel().round(4).tolist(),
            }
        )
    noise = 0.02 * generator.standard_normal(4)
    shares = (0.05, 0.1, 0.25, 0.5)
    return {
        "shape": [size, size],
        "description": ["A filter is what one hidden unit looks for in an image."],
        "filters": filters,
        "r2": [
            {
                "fraction": f,
                "n_atoms": round(f * size * size),
                "r2": 1 - 0.4 * 0.05 / f + e,
                "random_r2": f + e,
            }
            for f, e in zip(shares, noise.tolist(), strict=True)
        ],
    }


def filter_rows(generator: np.random.Generator) -> list[Row]:
    """Figure 1: networks with filters and what share of them is predicted."""
    rows = []
    networks = (("MLP on MNIST", "mnist"), ("ConvNet on CIFAR-10", "cifar10"))
    for seed in range(SEEDS):
        for network, dataset in networks:
            data = figure(generator)
            metrics = {f"r2_{100 * item['fraction']:g}": item["r2"] for item in data["r2"]}
            rows.append(
                {
                    "schema": 1,
                    "experiment": "fig1",
                    "variant": network,
                    "dataset": dataset,
                    "seed": seed,
                    "labels": {"network": network},
                    "config": {"seed": seed},
                    "counts": {},
                    "metrics": metrics,
                    "versions": {"weightcast": "0.1.0"},
                    "figure": data,
                }
            )
    return rows


def all_rows(seed: int = 0) -> list[Row]:
    """Rows of every figure of the paper."""
    generator = np.random.default_rng(seed)
    return [
        *filter_rows(generator),
        *curve_rows("fig4", generator),
        *curve_rows("fig5", generator, dataset="cifar10"),
        *speech_rows(generator),
        *curve_rows("rica", generator, dataset="cifar10 patches"),
    ]


def probe_row() -> Row:
    """A probed network of two layers, whose weights a kernel predicts worse than their means."""
    measured = {
        ("0", "floor"): (0.05, 0.4),
        ("0", "Kernel"): (-0.536, 0.5),
        ("0", "DCT"): (0.3, 0.6),
        ("0", "ceiling"): (0.6, 0.9),
        ("2", "floor"): (0.04, 0.7),
        ("2", "Kernel"): (-3.5, 0.8),
        ("2", "DCT"): (0.2, 0.9),
        ("2", "ceiling"): (0.5, 0.95),
    }
    rows = [
        {
            "layer": layer,
            "dictionary": dictionary,
            "fraction": 0.05,
            "n_atoms": 3,
            "r2": r2,
            "output_r2": output_r2,
            "reason": "",
        }
        for (layer, dictionary), (r2, output_r2) in measured.items()
    ]
    return {
        "schema": 1,
        "experiment": "probe",
        "variant": "net.safetensors",
        "dataset": "",
        "seed": 0,
        "config": {},
        "counts": {"dense": 1000},
        "metrics": {},
        "versions": {"weightcast": "0.1.0"},
        "probe": {"rows": rows, "seed": 0},
    }
