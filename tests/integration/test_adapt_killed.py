"""An adapted network's run that is killed and resumed ends as one that was left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightcast as wc
from tests import hub_folders
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import SafetensorsCheckpointIO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("killed_training.py")
CONFIG = """
model: {place}/bert
data: {place}/lines
task: text-classification
learned: 2000
length: 24
n_validation: 20
n_inputs: 64
training: {{epochs: 3, batch_size: 8}}
"""  # some 18 batches an epoch, in three lists


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    hub_folders.bert(folder / "bert")
    hub_folders.lines_of_text(folder / "lines")
    return folder


def command(moment, folder, place, *options):
    """Run it as from a shell: its exit code and what it said."""
    paths = [str(Path(wc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    (folder / "run.yaml").write_text(CONFIG.format(place=place))
    words = [moment, "adapt", "run.yaml", "--output", "run", "--rows", "rows.jsonl", *options]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder, env=env, capture_output=True, text=True,
        start_new_session=True, timeout=200, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def outcome(folder):
    """All that the run left behind, but for times."""
    [row] = read_rows(folder / "rows.jsonl")
    del row["metrics"]["train_seconds"]
    state = SafetensorsCheckpointIO().load_checkpoint(folder / "run" / "last.ckpt")
    saved = {file.name: file.read_bytes() for file in (folder / "run" / "model").iterdir()}
    return row, saved, state


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, said = command("never", folder, place)
    assert code == 0, said
    return outcome(folder)


@pytest.mark.parametrize("moment", ["list:5", "write:3", "renamed:2"])
def test_a_killed_run_goes_on_to_the_last_bit(moment, whole, place, tmp_path):
    code, said = command(moment, tmp_path, place)
    assert code == -signal.SIGKILL, said
    assert not (tmp_path / "rows.jsonl").exists()
    code, said = command("never", tmp_path, place, "--resume")
    assert code == 0, said
    assert "epoch 1 of 3" not in said  # it went on, and did not start anew
    row, saved, state = outcome(tmp_path)
    assert row == whole[0]
    assert saved == whole[1]
    for name, value in whole[2]["state_dict"].items():
        assert torch.equal(state["state_dict"][name], value), name


def test_ctrl_c_tells_how_to_go_on(place, tmp_path):
    code, said = command("interrupt:4", tmp_path, place)
    assert code == 130, said
    assert "Go on with\n  weightcast adapt run.yaml --output run --rows rows.jsonl --resume" in said
