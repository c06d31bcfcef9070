"""A user's Lightning run that is stopped and resumed draws the numbers that it would have drawn."""

import json
from pathlib import Path

import pytest
import torch

from tests.integration.resumed_training import compare
from tests.integration.test_distributed import TORCHRUN, start

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
SCRIPT = Path(__file__).with_name("resumed_training.py")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path, workers):
    whole, resumed = compare(tmp_path, workers, processes=1)
    assert len(whole["losses"]) == 12
    assert resumed == whole


def test_without_the_random_state_it_is_another_run(tmp_path):
    whole, resumed = compare(tmp_path, 0, processes=1, keep_random=False)
    assert resumed["losses"] != whole["losses"]


@pytest.mark.slow
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch was built without torch.distributed or without gloo",
)
def test_with_two_processes_each_draws_its_own(tmp_path):
    start(tmp_path, *TORCHRUN, str(SCRIPT), str(tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for whole, resumed in found:
        assert resumed == whole
    first, second = (whole for whole, _ in found)
    assert first["parameters"] == second["parameters"]
    assert first["losses"] != second["losses"]
