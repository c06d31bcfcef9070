"""Starting Python as a user does from a shell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import weightcast

LIMIT = 240  # seconds; the processes of others may take the cores


def run(module: str, *arguments: str | Path) -> str:
    """``python -m module arguments``, with what it printed; an AssertionError where it fails."""
    roots = [Path(weightcast.__file__).parents[1], Path(__file__).parents[2]]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, roots)),
        "OMP_NUM_THREADS": "1",
    }
    if "lo" in dict(map(reversed, socket.if_nameindex())):
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
