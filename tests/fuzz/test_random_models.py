"""Any plan on any small model is saved and loaded to the last bit; any JSON is read or refused.

WEIGHTCAST_EXAMPLES sets how many examples each test tries, 200 where it is not set.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import weightcast as wc
from tests.saved_folders import edit_facts, make_dense, make_model, save_quietly
from weightcast.serialization import decode, encode
from weightcast_lab.sweeps.rows import append_row, read_rows

d, k = wc.dictionaries, wc.kernels
EXAMPLES = int(os.environ.get("WEIGHTCAST_EXAMPLES", "200"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="WEIGHTCAST_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.timeout(3600)

scales = st.floats(0.5, 3)
kernels = st.one_of(
    st.builds(k.SquaredExponential, scales),
    st.builds(k.Exponential, scales),
    st.builds(k.Matern, st.sampled_from([1.5, 2.5]), scales),
)
mixings = st.sampled_from(["ridge", "raw", "orthonormal"])
dictionaries = st.one_of(
    st.builds(
        d.Kernel,
        kernels,
        mixings,
        st.floats(0.01, 1),
        st.sampled_from(["random", "leading", "pivoted"]),
        st.sampled_from(["per_channel", "shared"]),
    ),
    st.builds(d.LocalKernel, st.builds(k.SquaredExponential, scales), window=st.floats(1, 4)),
    st.builds(d.DCT, st.sampled_from(["random", "leading"])),
    st.builds(d.Fourier, st.sampled_from(["random", "leading"])),
    st.builds(d.RandomGaussian, st.sampled_from(["raw", "orthonormal"])),
    st.builds(d.RandomConnections, st.sampled_from(["random", "grouped"])),
    st.just(d.LowRank()),
    st.builds(d.Covariance, mixings, st.floats(0.01, 1)),
    st.just(d.PCA()),
)
grids = st.builds(
    wc.Grid, st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.integers(1, 3)
)


@many
@given(
    grid=grids,
    n_units=st.integers(1, 12),
    dictionary=dictionaries,
    fraction=st.floats(0.05, 1),
    columns=st.integers(1, 4),
    n_rows=st.integers(1, 7),
    bases=st.sampled_from(["rebuild", "store"]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_model_is_saved_to_the_last_bit(
    grid, n_units, dictionary, fraction, columns, n_rows, bases, dtype
):
    n_visible = grid.n_visible
    dense = nn.Sequential(nn.Linear(n_visible, n_units), nn.Tanh(), nn.Linear(n_units, 2)).to(dtype)
    x = torch.randn(60, n_visible, generator=torch.Generator().manual_seed(0)).to(dtype)
    try:
        rule = wc.Rule(dictionary, fraction, columns, grid)
        model = wc.convert(dense, {"0": rule}, inputs=x)
    except ValueError:
        assume(False)  # no such layer; what is refused, and how, is tested elsewhere
    with tempfile.TemporaryDirectory() as folder:
        save_quietly(model, Path(folder) / "model", bases=bases)
        loaded = wc.load(Path(folder) / "model", dense)
    assert torch.equal(loaded(x[:n_rows]), model(x[:n_rows]))
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


@many
@given(
    names=st.lists(st.text(min_size=1, max_size=9), max_size=4, unique=True),
    grid=st.none() | grids,
    dictionary=dictionaries,
    fraction=st.floats(0.01, 1),
    columns=st.integers(1, 99),
)
def test_any_plan_and_grid_survives_json(names, grid, dictionary, fraction, columns):
    rule = wc.Rule(dictionary, fraction, columns, grid)
    plan = wc.Plan({name: rule for name in names if not name.startswith("re:")} | {"*": None})
    assert wc.Plan.from_json(plan.to_json()) == plan
    if grid is not None:
        assert decode(wc.Grid, json.loads(json.dumps(encode(grid)))) == grid
        assert len(grid.coordinates()) * grid.channels == grid.n_visible


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["Kernel", "Rule", "Grid", "kind", "0", "0.V", "float32"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "shape", "kernel", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    wc.save(make_model("Kernel"), folder)
    return folder


@many
@given(
    path=st.sampled_from(
        [
            ("plan",), ("plan", "rules"), ("plan", "rules", "0"), ("layers",), ("layers", "0"),
            ("plan", "rules", "0", "dictionary"), ("plan", "rules", "0", "dictionary", "kernel"),
            ("plan", "rules", "0", "grid"), ("plan", "rules", "0", "columns"), ("tensors",),
            ("layers", "0", "fingerprint"), ("layers", "0", "base"), ("ties",), ("versions",),
            ("counts",), ("plan", "rules", "0", "fraction"), ("plan", "rules", "0", "path"),
        ]
    ),
    value=json_values,
)  # fmt: skip
def test_any_json_in_any_place_is_read_or_refused(folder, path, value):
    text = (folder / "weightcast.json").read_bytes()

    def change(facts):
        for key in path[:-1]:
            facts = facts[key]
        facts[path[-1]] = value

    try:
        edit_facts(folder, change)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loaded = wc.load(folder, make_dense())
            except wc.FormatError:
                return
        assert loaded[0].V.shape == (7, 24)
    finally:
        (folder / "weightcast.json").write_bytes(text)


@many
@given(rows=st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=3))
def test_any_result_rows_are_read_as_they_were_written(rows):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        named = {"experiment": "fuzz", "variant": "one", "dataset": "none", "seed": 0}
        empty = {"counts": {}, "metrics": {}, "versions": {}}
        written = [{"schema": 1} | named | empty | {"config": row, "more": row} for row in rows]
        for row in written:
            append_row(file, row)
        if written:
            assert read_rows(file) == written
