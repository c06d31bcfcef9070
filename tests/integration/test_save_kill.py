"""Savers that are killed, at random moments and at every step: old model or new, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weightcast

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="savers are forked"),
]
ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> list[dict[str, Any]]:
    """What killed_savers prints, and its last line, after a save that nobody killed."""
    source = str(Path(weightcast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killed_savers", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(outcomes: list[dict[str, Any]]) -> None:
    for found in outcomes[:-1]:
        # The last one that was saved for certain, or the next, which was put there already.
        assert found["loaded"] in (found["saved"], found["saved"] + 1), found
    assert outcomes[-1]["leftovers"] == 0


@pytest.mark.parametrize("swap", ["exchange", "renames"])
def test_killed_at_every_step(swap, tmp_path):
    outcomes = run("steps", tmp_path / "model", swap)
    check(outcomes)
    steps = {found["step"] for found in outcomes[:-1]}
    assert steps >= {"mkdir", "open", "fsync", "rename", "unlink", "exchange", "_chunks"} - (
        {"rename"} if swap == "exchange" else set()
    )
    # The next save removes what was left.
    assert max(found["leftovers"] for found in outcomes[:-1]) <= 2
    assert len(outcomes) > 40


@pytest.mark.slow
@pytest.mark.parametrize("swap", ["exchange", "renames"])
def test_killed_at_random_moments(swap, tmp_path):
    outcomes = run("random", tmp_path / "model", swap, 200)
    check(outcomes)
    assert len(outcomes) == 201
    assert all(found["killed"] for found in outcomes[:-1])
    assert max(found["leftovers"] for found in outcomes[:-1]) <= 2
    # Most were in the midst of it.
    assert sum(found["leftovers"] > 0 for found in outcomes[:-1]) >= 50
    assert outcomes[-1]["loaded"] > 20
