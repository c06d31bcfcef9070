"""A run that is killed and resumed ends as the one that was left alone, to the last bit."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightcast as wc
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import SafetensorsCheckpointIO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT = 240  # seconds for one of some ten processes, of which each needs about six

SCRIPT = Path(__file__).with_name("killed_training.py")
CONFIG = """
model: {hidden: [60, 40]}
plan:
  rules:
    hidden1: {dictionary: {kind: Kernel}, fraction: 0.05, columns: 4, grid: [28, 28]}
    hidden2: {dictionary: {kind: Covariance}, fraction: 0.2}
training: {epochs: 3, batch_size: 40}
n_train: 990
n_validation: 200
"""  # 25 batches an epoch, the last of 30 images, in four lists


def command(moment, folder, *options):
    """Run it as from a shell, with no process left behind: its exit code and what it said."""
    paths = [str(Path(wc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if "lo" in dict(map(reversed, socket.if_nameindex())):
        env["GLOO_SOCKET_IFNAME"] = "lo"
    (folder / "run.yaml").write_text(CONFIG)
    words = [moment, "train", "run.yaml", "--output", "run", "--rows", "rows.jsonl", *options]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said


def run(folder, *options):
    code, said = command("never", folder, *options)
    assert code == 0, said
    return said


def kill(moment, folder, *options):
    code, said = command(moment, folder, *options)
    assert code == -signal.SIGKILL, said


def outcome(folder):
    """All that the run left behind, but for times."""
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(folder / "run" / "last.ckpt")
    del checkpoint["callbacks"]["Stopwatch"]
    [row] = read_rows(folder / "rows.jsonl")
    assert row == json.loads((folder / "run" / "row.json").read_text())
    del row["metrics"]["train_seconds"]
    saved = {file.name: file.read_bytes() for file in (folder / "run" / "model").iterdir()}
    metrics = (folder / "run" / "metrics.csv").read_text()
    assert [file.name for file in (folder / "run").glob(".*")] == []
    return {"checkpoint": checkpoint, "row": row, "saved": saved, "metrics": metrics}


def differences(a, b, path=""):
    """Where two trees differ, bit by bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
        return [] if same else [path]
    if type(a) is type(b) and isinstance(a, dict | list | tuple) and len(a) == len(b):
        keys = a if isinstance(a, dict) else range(len(a))
        if isinstance(a, dict) and a.keys() != b.keys():
            return [path]
        return [name for key in keys for name in differences(a[key], b[key], f"{path}/{key}")]
    return [] if a == b else [path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the run leaves behind that nobody stops, for a number of processes."""
    known = {}

    def outcome_of(processes):
        if processes not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            run(folder, "--processes", str(processes))
            known[processes] = outcome(folder)
        return known[processes]

    return outcome_of


@pytest.mark.parametrize(
    ("processes", "options", "moments"),
    [
        (1, [], ["list:6", "write:2", "renamed:1"]),
        (1, ["--workers", "2"], ["list:6"]),
        (2, [], ["list:6", "rename:1"]),
    ],
)
def test_a_killed_run_that_is_resumed_is_the_run_that_was_not_killed(
    tmp_path, undisturbed, processes, options, moments
):
    expected = undisturbed(processes)
    options = [*options, "--processes", str(processes)]
    for number, moment in enumerate(moments):
        kill(moment, tmp_path, *options, *(["--resume"] if number else []))
    said = run(tmp_path, *options, "--resume")
    assert said.count("test error") == 1  # one of the processes speaks
    assert "epoch 1 of 3" not in said
    assert differences(outcome(tmp_path), expected) == []
