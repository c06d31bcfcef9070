"""A sweep on a real Ray cluster, one of whose workers is killed in the middle of a trial."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import weightcast
from weightcast_lab.sweeps.executors import RayExecutor
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.sweeps.sweep import sweep
from weightcast_lab.sweeps.trial import Place, Trial, run
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings

PLACE = Place(accelerator="cpu", threads=1)
TRIALS = [
    Trial(
        "train",
        TrainConfig(
            model=ModelSettings(hidden=(8, 8)),
            training=TrainingSettings(epochs=50),
            seed=seed,
            variant="tiny",
        ),
    )
    for seed in range(4)
]

pytest.importorskip("ray", reason="Ray is not installed: pip install 'weightcast[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """The address of a cluster of two cores, whose trials run in folders below tmp_path."""
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path / "ray.log"
    # Ray's sockets lie in this folder, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, log.open("wb") as output:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"]
        command += ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000"]
        command += [f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"]
        environment = os.environ | {
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": str(Path(weightcast.__file__).parents[1]),
            "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        }
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            wait_for(lambda: b"Ray runtime started" in log.read_bytes() or process.poll())
            assert process.poll() is None, log.read_text()
            yield address
        finally:
            process.terminate()  # with --block it takes its own cluster down, and no other
            process.wait(60)


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def running_trials(tmp_path):
    """Parent process and folder of each trial that is running below tmp_path."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode().split("\0")
            parent = parent_of(int(path.name))
        except (OSError, UnicodeDecodeError):
            continue
        folders = [word for word in words if word.startswith(f"{tmp_path}/weightcast-")]
        if "weightcast_lab.sweeps.attempt" in words and folders:
            found.append((parent, int(path.name), Path(folders[0])))
    return found


def without_times(rows):
    return [
        row | {"metrics": {k: v for k, v in row["metrics"].items() if k != "train_seconds"}}
        for row in rows
    ]


def events(folder):
    return [line.split()[-1] for line in (folder / "attempts.log").read_text().splitlines()]


def test_a_sweep_on_ray_outlives_a_killed_worker(cluster, tmp_path):
    folder = tmp_path / "sweep"
    killed = []

    def caught():
        """A trial in the middle of its work, held still so that it cannot end before the kill."""
        for worker, process, where in running_trials(tmp_path):
            if not (where / "attempts.log").exists():
                continue
            with suppress(ProcessLookupError):  # it has just ended: the next one, then
                os.kill(process, signal.SIGSTOP)
                if events(where) == ["start"] and not (where / "row.json").exists():
                    return worker, process, where
                os.kill(process, signal.SIGCONT)
        return None

    def kill():
        worker, process, where = wait_for(caught)
        os.kill(worker, signal.SIGKILL)
        # A large process takes its time to die. Only then has the trial's stdin ended.
        wait_for(lambda: parent_of(process) != worker)
        os.kill(process, signal.SIGCONT)
        killed.append(where)
        wait_for(lambda: not Path(f"/proc/{process}").exists(), seconds=30)
        killed.append(process)

    thread = threading.Thread(target=kill)
    thread.start()
    with RayExecutor(cluster, PLACE) as executor:
        result = sweep(TRIALS, folder, place=PLACE, executor=executor, progress=False)
    thread.join()
    where, _ = killed  # the trial's process ended with its worker
    assert not (where / "row.json").exists()
    cut_off = Trial.from_json((where / "trial.json").read_text())
    assert events(where) == ["start"]

    assert result.failures == []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = [run(one, PLACE) | {"trial": one.key} for one in TRIALS]
    finally:
        torch.set_num_threads(threads)
    assert without_times(result.rows) == without_times(expected)
    assert read_rows(folder / "rows.jsonl") == result.rows
    assert cut_off in TRIALS
    for one in TRIALS:
        assert events(folder / one.key) == ["start", "end"]
    # All that is left of other attempts is the one that was cut off.
    assert list(tmp_path.glob("weightcast-*")) == [where]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_named_at_once(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=rf"no Ray cluster answers at '{address}'.*ray start"):
        RayExecutor(address)
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 'host:port'"):
        RayExecutor("host:port")
