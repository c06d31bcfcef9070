"""Modules of the last release say where they are now."""

import importlib

import pytest

import weightcast

MOVED = [f"weightcast.{name}" for name in weightcast._MOVED]


@pytest.mark.parametrize("name", MOVED)
def test_a_module_that_moved_says_where_it_is(name):
    with pytest.raises(ModuleNotFoundError, match="has moved: import weightcast") as raised:
        importlib.import_module(name)
    assert raised.value.name == name


def test_other_names_are_missing_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'weightcast\.nothing'"):
        importlib.import_module("weightcast.nothing")
