"""The benchmark's preset gpu, small, and its kernel, on a GPU. Skipped without one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from weightcast.cli.main import main as weightcast
from weightcast_lab.sweeps.rows import read_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
KERNEL = Path(__file__).parents[1] / "lab" / "fused_product.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is missing")
def test_the_kernel_computes_what_the_plain_path_does():
    done = subprocess.run(
        [sys.executable, str(KERNEL), "cuda"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("layer", ["512-512", "llama-256"])
def test_the_preset_measures_every_path_as_cuda_graphs(layer, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    command = f"bench --preset gpu --layers {layer} --batches 2048 --fractions 0.1 --columns 4"
    command += " --peers low-rank --rounds 2 --min-seconds 0.005"
    assert weightcast([*command.split(), "--rows", str(file)]) == 0
    assert "failed" not in capsys.readouterr().err
    rows = read_rows(file)
    paths = [row["config"].get("path", row["config"]["kind"]) for row in rows]
    assert paths.count("auto") == paths.count("factored") == paths.count("materialised") == 2
    assert paths.count("low-rank") == 1
    for row in rows:
        if row["config"].get("path") == "auto":
            metrics = row["metrics"]
            assert metrics["optimiser_bytes"] < 0.2 * metrics["dense_optimiser_bytes"]
            assert min(metrics["peak_mebibytes"], metrics["dense_peak_mebibytes"]) > 0


def test_replayed_graphs_train_as_steps_without_them():
    from weightcast_lab.bench.cases import find_case
    from weightcast_lab.bench.contenders import PREDICTED, Contender, build
    from weightcast_lab.bench.protocol import training_step

    case, losses = find_case("256-256"), []
    for compiled in (False, True):
        model, _ = build(case, Contender(PREDICTED, 0.1, "dct-folded", 4, "auto"), "cuda")
        x = case.inputs(1024, "cuda")
        training = training_step(case, model, x, fused=True, compiled=compiled)
        for _ in range(20):
            training.step()
        losses.append(case.loss(model(x)).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
