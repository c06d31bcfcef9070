"""Two real processes that talk over loopback: what they send, and that they train as one would."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast
from tests.integration.data_parallel import (
    LIMIT,
    Around,
    fingerprint,
    make_adapted,
    make_dense,
    make_predicted,
    train,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this torch was built without torch.distributed or without gloo",
    ),
]

SCRIPT = Path(__file__).with_name("data_parallel.py")
TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
    *("--nproc-per-node", "2"),
)
RANKS = (0, 1)


def start(out, *command):
    """Run Python as a user does from a shell, and leave no process behind."""
    paths = [str(Path(weightcast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if "lo" in dict(map(reversed, socket.if_nameindex())):
        env["GLOO_SOCKET_IFNAME"] = "lo"
    process = subprocess.Popen(
        [sys.executable, *command],
        env=env,
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        # The processes themselves give up after LIMIT seconds, whoever started them.
        output, _ = process.communicate(timeout=LIMIT + 30)
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its processes, which are in sessions of their own
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, output


def run(out, mode, *starter):
    """What each process of the script wrote."""
    start(out, *starter, str(SCRIPT), mode, str(out))
    return [json.loads((out / f"{mode}-{rank}.json").read_text()) for rank in RANKS]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """For each case, what the two processes found: training under torchrun and Lightning."""
    out = tmp_path_factory.mktemp("distributed")
    ranks = run(out, "torchrun", *TORCHRUN)
    found = {case: [ranks[rank][case] for rank in RANKS] for case in ranks[0]}
    if _has_lightning():
        found["lightning"] = run(out, "lightning")
    return found


def _has_lightning():
    try:
        import pytorch_lightning  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_documented_script_runs_as_it_stands(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    code = text.split("```python\n# train.py\n")[1].split("```")[0]
    limit = f"import faulthandler; faulthandler.dump_traceback_later({LIMIT}, exit=True)\n"
    (tmp_path / "train.py").write_text(limit + code)
    start(tmp_path, *TORCHRUN, "train.py")
    dense = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    model = weightcast.load(tmp_path / "digits", dense)
    digits = load_digits()
    guess = model(torch.from_numpy(digits.data / 16).float()).argmax(dim=1)
    assert float((guess == torch.from_numpy(digits.target)).float().mean()) > 0.5


def look_up(facts, case):
    if case not in facts:
        pytest.skip("pytorch-lightning is not installed")
    return facts[case]


def excess(sent, learned):
    """By how much a step sent more than the gradients of the learned weights: a share of these."""
    return sum(sent.values()) / (4 * learned) - 1


@pytest.mark.parametrize("case", ["predicted", "adapted", "around", "lightning"])
def test_a_step_sends_the_learned_weights_and_nothing_else(facts, case):
    for process in look_up(facts, case):
        assert len(process["sent"]) == 4
        for sent in process["sent"]:
            assert sent["allreduce_"] == 4 * process["learned"]
            # Beside the gradients: Lightning's question whether to stop, and, once, DDP's order of
            # buckets.
            assert 0 <= excess(sent, process["learned"]) < 0.02


@pytest.mark.parametrize("case", ["predicted", "around"])
def test_dictionaries_are_not_sent_at_the_start_either(facts, case):
    for process in facts[case]:
        assert 0 <= excess(process["at_start"], process["learned"]) < 0.02


def test_the_count_would_see_dictionaries_that_are_buffers(facts):
    for process in facts["buffers"]:
        assert process["buffer_bytes"] > 4 * process["learned"]
        for sent in process["sent"]:
            assert sent["broadcast_"] >= process["buffer_bytes"]
            assert excess(sent, process["learned"]) > 1
        assert process["losses"] == facts["predicted"][facts["buffers"].index(process)]["losses"]


def test_the_count_sees_the_buffers_of_batch_normalisation(facts):
    for process in facts["normalised"]:
        assert process["buffer_bytes"] == 160 * 2 * 4 + 8
        assert process["sent"][-1] == {
            "allreduce_": 4 * process["learned"],
            "broadcast_": process["buffer_bytes"],
        }


@pytest.mark.parametrize("case", ["predicted", "adapted", "around", "dense"])
def test_the_system_counts_no_more_bytes_written_than_that(facts, case):
    for process in facts[case]:
        if None in process["written"]:
            pytest.skip("this system does not count what a process writes (/proc/self/io)")
        for written in process["written"]:
            # With two processes, an all-reduce writes as many bytes as the tensor has.
            assert 0 <= written - 4 * process["learned"] < 1024  # heads of messages
    # Process 0 writes the buffers: so this count sees them too.
    first = facts["buffers"][0]
    assert min(first["written"]) > 4 * first["learned"] + first["buffer_bytes"]


@pytest.mark.parametrize(
    ("case", "make"),
    [
        ("predicted", make_predicted),
        ("adapted", make_adapted),
        ("around", lambda: Around(make_predicted())),
        ("dense", make_dense),
        ("sharded", make_predicted),
        ("lightning", make_predicted),
    ],
)
def test_losses_are_those_of_one_process_with_the_same_global_batch(facts, case, make):
    together = torch.tensor([process["losses"] for process in look_up(facts, case)])
    alone = torch.tensor(train(make())["losses"])
    torch.testing.assert_close(together.mean(dim=0), alone, rtol=0, atol=2e-5)
    assert float((together[0] - together[1]).abs().max()) > 1e-3  # each had rows of its own
    # And the steps did something: these losses are not those of an untrained network.
    untrained = torch.tensor(train(make(), learning_rate=0.0)["losses"])
    assert float((alone - untrained)[1:].abs().min()) > 1e-3


@pytest.mark.parametrize("case", ["predicted", "around", "sharded", "lightning"])
def test_every_process_makes_the_same_dictionaries(facts, case):
    for process in look_up(facts, case):
        assert process["fingerprint"] == fingerprint(make_predicted())


def test_gradients_can_be_compressed_on_top(facts):
    for process in facts["half"]:
        assert process["sent"][-1] == {"allreduce_": 2 * process["learned"]}


def test_one_process_gives_its_dictionaries_to_all(facts):
    first, second = facts["apart"]
    assert first["before"] != second["before"]
    assert first["after"] == second["after"] == first["before"] == fingerprint(make_predicted())
    assert first["works"] is second["works"] is True


def test_processes_with_different_models_are_refused(facts):
    for message in facts["refused"]:
        assert "processes 0 and 1 differ in 12 constants (1.atoms.base.factor_0, " in message


def test_fully_sharded_training_shards_parameters_and_keeps_dictionaries_whole(facts):
    for process in facts["sharded"]:
        assert process["sharded"] is process["whole"] is True
        assert process["keys"] == list(make_predicted().state_dict())
        assert process["read_back"] is True
        for sent in process["sent"]:
            # Parameters are gathered for the forward pass and again for the backward pass, and
            # half of each gradient stays here.
            assert sum(sent.values()) < 1.02 * 2.5 * 4 * process["learned"]
