"""Probe: what is asked of the rows, and the table that they print as."""

from __future__ import annotations

import pytest

from weightcast.measure.probe_table import Probe, ProbeRow

ROWS = (
    ProbeRow("0", "floor", 0.5, 4, 0.5),
    ProbeRow("0", "DCT", 0.5, 4, 0.7, 0.8),
    ProbeRow("0", "Kernel", 0.5, 4, None, reason="Kernel needs the coordinates"),
    ProbeRow("0", "ceiling", 0.5, 4, 0.9),
    ProbeRow("1", "DCT", 0.5, 3, 0.2),
    ProbeRow("1", "PCA", 0.5, 3, 0.6),
    ProbeRow("1", "DCT", 0.25, 1, 0.1),
)
PROBE = Probe(ROWS, seed=3)


def test_the_best_is_none_of_the_bounds_and_can_be_built():
    assert PROBE.best("0", 0.5) is ROWS[1]
    assert PROBE.best("1", 0.5) is ROWS[5]
    with pytest.raises(
        ValueError, match=r"on layer '0' at fraction 0\.25: it has \[\('0', 0\.5\), "
    ):
        PROBE.best("0", 0.25)


def test_the_mean_is_over_layers_where_a_dictionary_can_be_built():
    assert PROBE.mean("DCT", 0.5) == pytest.approx(0.45)
    assert PROBE.mean("DCT", 0.25) == 0.1
    assert PROBE.mean("Kernel", 0.5) is None


def test_the_table_has_a_line_for_each_layer_and_dictionary_and_the_reasons_below():
    table, _, reasons = str(PROBE).partition("\n\n")
    heads, *lines = table.splitlines()
    for head in ("layer", "dictionary", "r2 at 0.25", "r2 at 0.5", "output at 0.5"):
        assert head in heads
    assert len(lines) == 6
    assert [line.split()[:2] for line in lines][-2:] == [["1", "DCT"], ["1", "PCA"]]
    assert lines[1].split()[2:] == ["0.700", "0.800"]
    assert lines[4].split()[2:4] == ["0.100", "0.200"]
    assert reasons == "0, Kernel: Kernel needs the coordinates"
    assert "output" not in str(Probe(ROWS[4:])).splitlines()[0]


def test_the_data_are_the_rows():
    data = PROBE.to_dict()
    assert data["seed"] == 3
    assert [ProbeRow(**row) for row in data["rows"]] == list(ROWS)
