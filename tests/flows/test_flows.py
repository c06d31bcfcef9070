"""Every flow does what the table of docs/flows.md says it does."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("onnxruntime")
pytest.importorskip("peft")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("torchao")
pytest.importorskip("transformers")

from tests.flows.flow import FLOWS, Flow
from tests.flows.table import committed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours
]


def test_the_table_has_all_flows_and_at_most_three_refusals():
    table = committed()
    assert list(table) == [flow.title for flow in FLOWS]
    assert len(table) >= 25
    assert sum(outcome.startswith("refused: ") for _, outcome in table.values()) <= 3


@pytest.mark.parametrize("flow", FLOWS, ids=[flow.run.__name__ for flow in FLOWS])
def test_flow(flow: Flow, tmp_path: Path):
    tools, outcome = committed()[flow.title]
    assert [tool.split()[0] for tool in tools.split(", ")] == list(flow.tools)
    assert flow.outcome(tmp_path) == outcome
