"""The wheel, built from a clean clone, in an empty environment of this Python."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone: nothing to build from")
def test_the_wheel_works_where_nothing_else_is(tmp_path):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    script = ROOT / "tests" / "release" / "distribution.py"
    options = ["--pythons", version, "--core-only", "--output", tmp_path]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"weightcast: python {version}" in done.stdout
    assert done.stdout.count("PASSED") == 2  # twine, on both
    assert len(list(tmp_path.iterdir())) == 2
