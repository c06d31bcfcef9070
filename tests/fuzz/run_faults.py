"""Run a folder of small failing inputs, one after the other, and say how each ends.

    python tests/fuzz/run_faults.py FOLDER

FOLDER holds ``F01.py``, ``F05.sh`` and the like, calls of an older version that showed a fault
each. Each runs alone in an empty folder, with this environment's commands, against this checkout.
``held`` means that it ends as it should (below); the exit code is the number of the others.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Modules that have moved since.
MOVED = {
    "weightcast.training.speech": "weightcast_lab.data.speech",
    "weightcast.training import SafetensorsCheckpointIO": (
        "weightcast.integrations.lightning import SafetensorsCheckpointIO"
    ),
    "weightcast.training": "weightcast_lab.training",
}

# Names to what the output must hold; after a !, what it must not.
ENDS = {
    "F01": "!Traceback",
    "F02": r"^True 0\.2",
    "F04": r"^PackedSequence$ !^Tensor$",
    "F05": r"^0\.10 +PredictedLinear",
    "F07": r"\[2, 3, 8, 8\]\) tensor\(1\.\)",
    "F09": r"images of several sizes.*9, 9 !Traceback",
    "F10": "test split has label -1",
    "F12": "!Traceback",
    "F14": "onnxruntime cannot run",
    "F15": "!Traceback|Error",
    "F16": r"m.pt.sub cannot be written[\s\S]*/proc/x/y cannot be written !compressing",
    "F18": r"weightcast: error: .*labels is !NaN",
    "F19": r"(weightcast: error: .*\n){4} !Traceback",
    "F20": r"(weightcast: error: r20.jsonl, line 1.*\n){4} !Traceback",
    "F21": "r21.jsonl, line 2",
    "F22": "^saved network",
    "F23": "^weightcast: error: ~nobody-here",
    "F25": r"^ValueError 'b' is a tensor of torch.float32, layout torch.sparse_coo.*\n\Z",
    "F27": "!Error",
    "F28": r"^100 samples\n100 samples\n.*tells 100 samples, the file holds 75",
    "F29": r"train.*0\.jpg cannot be decoded",
    "F30": "!must be|whole",
    "F31": "weight is computed from V",
    "F33": "empty.yaml has no rule",
}


def run(file: Path) -> str:
    """What a file prints, both streams together."""
    source = Path(__file__).parents[2] / "src"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    text = file.read_text("utf-8")
    for old, new in MOVED.items():
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_text(text, "utf-8")
        return subprocess.run(
            [sys.executable if file.suffix == ".py" else "bash", copy],
            cwd=folder,
            env={**os.environ, "PATH": programs, "PYTHONPATH": str(source), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        ).stdout.decode("utf-8", "replace")


def ends_well(name: str, output: str) -> bool | None:
    """Whether an output is as it should be; None where nothing is known of the name."""
    if name not in ENDS:
        return None
    wanted, _, unwanted = ENDS[name].partition("!")
    found = not wanted or re.search(wanted.strip(), output, re.MULTILINE)
    return bool(found) and not (unwanted and re.search(unwanted, output, re.MULTILINE))


def main(folder: str) -> int:
    """Run all files; the number of those that do not end as they should."""
    failed = 0
    for file in sorted(Path(folder).glob("F*.*")):
        output = run(file)
        held = ends_well(file.stem, output)
        failed += held is False
        last = " ".join((output.strip().splitlines() or ["(nothing)"])[-1].split())
        word = {True: "held", False: "FAILED", None: "unknown"}[held]
        print(f"{file.name:<7} {word:<7} {last[:150]}", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
