"""An extra that is installed and does not import: one line from every command, and from doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

import weightcast as wc

OPERATOR = "raise RuntimeError('operator torchvision::nms does not exist')"
WAVELETS = {"rules": {"*": {"dictionary": {"kind": "Wavelet"}, "fraction": 0.5}}}


def break_module(folder: Path, name: str, text: str) -> None:
    """Put a module that does not import before the installed one, or install a broken one."""
    package, info = folder / name, folder / f"{name}-9.0.dist-info"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    if name in ("torchvision", "stranger"):
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")
        (info / "top_level.txt").write_text(f"{name}\n")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a fresh interpreter that finds the folder's modules first."""
    path = os.pathsep.join([str(folder / "site-packages"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "weightcast", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.fixture
def work(tmp_path):
    """A folder with what the commands work on."""
    model = nn.Sequential(nn.Linear(16, 8))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "wavelets.json").write_text(json.dumps(WAVELETS))
    (tmp_path / "config.yaml").write_text("data: digits\n")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text('{"model_type": "bert"}')
    save_file(model.state_dict(), tmp_path / "hub" / "model.safetensors")
    (tmp_path / "factory.py").write_text(
        "from torch import nn\ndef make():\n return nn.Sequential(nn.Linear(16, 8))\n"
    )
    wc.save(wc.convert(model, {"*": wc.Rule(wc.dictionaries.DCT(), 0.5)}), tmp_path / "saved")
    return tmp_path


CONVERT = ("convert", "model.safetensors", "--output", "new", "--plan")
EXPORT = ("export", "saved", "--output", "x.onnx", "--factory", "factory:make", "--allow-import")
EXPORT += ("--input-shape", "[16]")
BROKEN = {
    "train": ("torchvision", OPERATOR, ("train", "config.yaml"), "pytorch-lightning (extra train)"),
    "demo": ("tqdm", "import no_such", ("demo",), "tqdm (extra train)"),
    "yaml": ("yaml", "raise ValueError('ABI')", ("train", "config.yaml"), "PyYAML (extra train)"),
    "convert": ("pywt", "import no_such", (*CONVERT, "wavelets.json"), "PyWavelets (extra wav"),
    "hub": ("transformers", "def broken(:", ("probe", "hub"), "transformers (extra adapt)"),
    "report": ("altair", "import os.no", ("report", "rows.jsonl"), "altair (extra report)"),
    "ray": ("ray", "raise OSError('no such library')", (
        "reproduce", "fig4", "--preset", "smoke", "--executor", "ray"), "ray (extra ray)"),
    "export": ("onnxscript", "from onnxscript import no", EXPORT, "onnxscript (extra onnx)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_extra_is_one_line(case, work):
    name, text, words, told = BROKEN[case]
    break_module(work / "site-packages", name, text)
    done = run(work, *words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith("weightcast: error: ")
    assert told in line
    assert "does not import" in line
    assert "pip uninstall" in line
    assert run(work, words[0], "--help").returncode == 0


def test_the_doctor_finds_what_is_broken(work):
    break_module(work / "site-packages", "torchvision", OPERATOR)
    done = run(work, "doctor")
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    assert all("operator torchvision::nms does not exist in torchvision" in line for line in failed)
    (line,) = (line for line in failed if "extra train" in line)
    assert "pip uninstall torchvision, then pip install 'weightcast[train]'" in line
    assert "extra train" in done.stdout.splitlines()[-1]


def test_a_strangers_command_that_is_broken_leaves_the_others_alone(work):
    break_module(work / "site-packages", "stranger", "1 / 0")
    entry = "[weightcast.commands]\nmeasure = stranger\n"
    (work / "site-packages" / "stranger-9.0.dist-info" / "entry_points.txt").write_text(entry)
    overview = run(work, "--help")
    assert overview.returncode == 0
    assert "Replace a model's layers by predicted ones" in overview.stdout
    assert "Cannot be loaded: weightcast doctor says why." in overview.stdout
    done = run(work, "measure")
    assert done.returncode == 2
    told = "weightcast: error: stranger is installed and does not import, ZeroDivisionError: "
    assert done.stderr.startswith(told)
