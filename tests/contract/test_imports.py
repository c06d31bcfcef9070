"""What takes long to import, or is optional, is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("sklearn", "scipy", "pandas", "pytorch_lightning", "altair", "datasets", "transformers")
SLOW += ("onnxscript", "ray", "tqdm", "yaml", "torch.export", "torch._dynamo", "torch.onnx")


def imported(code: str) -> list[str]:
    """What of the slow packages a fresh interpreter holds beside torch, having run the code."""
    lines = (
        "import sys, torch",
        "before = set(sys.modules)",
        "try:",
        f"    {code}",
        "except SystemExit: pass",
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = done.stderr.split()
    assert "weightcast" in names
    return [name for name in names if name in SLOW]


COMMANDS = (
    "demo",
    "train",
    "adapt",
    "convert",
    "compress",
    "distil",
    "probe",
    "reproduce",
    "bench",
    "report",
)
COMMANDS += ("export", "doctor")


def test_the_library_imports_little_beside_torch():
    assert imported("import weightcast") == []


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_imports_little(words):
    assert imported(f"from weightcast.cli import main; main({words})") == []


def test_what_is_imported_is_seen():
    assert imported("import weightcast, scipy") == ["scipy"]
