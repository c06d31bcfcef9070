"""Folders that earlier versions saved load, and give the outputs that they gave then."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import weightcast as wc
from tests.contract.table import DICTIONARIES, NOT_BUILT
from tests.golden.make import HERE, make_dense
from weightcast.storage.inspection import inspect
from weightcast.storage.manifest import SCHEMA

FOLDERS = sorted(path for path in HERE.glob("schema_*/*") if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_golden_folder_loads(folder):
    saved = load_file(folder / "outputs.safetensors")
    model = wc.load(folder / "model", make_dense(folder.name).eval())
    torch.testing.assert_close(model(saved["input"]), saved["output"], rtol=1e-4, atol=1e-5)
    merged = wc.merge(model)
    torch.testing.assert_close(merged(saved["input"]), saved["output"], rtol=1e-4, atol=1e-5)
    assert not inspect(folder / "model").not_finite


def test_every_dictionary_has_a_golden_folder():
    there = {path.name for path in FOLDERS if path.parent.name == f"schema_{SCHEMA}"}
    wanted = {name.replace("/", "_") for name in set(DICTIONARIES) - NOT_BUILT}
    assert wanted <= there, "run: python -m tests.golden.make"
