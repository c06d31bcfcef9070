"""Fixtures of all tests."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

# A shell that starts the tests in its background has them ignore Ctrl-C, and all their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples", type=int, default=200, help="of each property, where it has no own number"
    )


def pytest_configure(config: pytest.Config) -> None:
    examples = config.getoption("--examples")
    settings.register_profile("ours", max_examples=examples, deadline=None)
    settings.load_profile("ours")


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a refused change must leave as it was."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modules": modules,
        "training": {name: module.training for name, module in modules.items()},
        "parameters": {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in modules.items()
        },
    }


def _assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = _snapshot(model)
    assert after["state"].keys() == before["state"].keys()
    for name, tensor in before["state"].items():
        assert torch.equal(after["state"][name], tensor), name
    for key in ("modules", "training", "parameters", "hooks"):
        assert after[key] == before[key], key


class Refuses(Protocol):
    """The type of :func:`refuses`."""

    def __call__(self, model: nn.Module, *messages: str) -> AbstractContextManager[None]: ...


@pytest.fixture
def refuses() -> Refuses:
    """A block that must raise ValueError with all the messages, and leave the model untouched."""

    @contextmanager
    def check(model: nn.Module, *messages: str) -> Iterator[None]:
        before = _snapshot(model)
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            yield
        for message in messages:
            assert re.search(message, str(raised.value)), f"{message!r} not in: {raised.value}"
        _assert_unchanged(model, before)

    return check


@pytest.fixture
def unmoved_randomness() -> Iterator[None]:
    """A test that must leave the global random state of torch, NumPy and Python alone."""
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    yield
    assert torch.equal(torch.get_rng_state(), before[0]), "torch's global random state moved"
    assert np.array_equal(np.random.get_state()[1], before[1]), "NumPy's global state moved"
    assert random.getstate() == before[2], "Python's global random state moved"
