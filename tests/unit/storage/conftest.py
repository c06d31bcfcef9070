"""A saved folder for the tests of what reads it."""

from __future__ import annotations

import pytest

import weightcast as wc
from tests.saved_folders import make_model


@pytest.fixture
def folder(tmp_path):
    wc.save(make_model(), tmp_path / "model")
    return tmp_path / "model"
