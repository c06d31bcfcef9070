"""FittedFolder: a compression goes on where it was, and gives the same to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.transform import compress as module

PLAN = {
    "0": wc.Rule(d.Kernel(selection="leading", mixing="orthonormal"), 0.3, 2, grid=(5, 5)),
    "2": wc.Rule(d.SingularVectors(), 0.4),
    "4": wc.Rule(d.SparseAtoms(), 0.5),
    "6": wc.Rule(d.LowRank(), 0.3),
    "8": wc.Rule(d.Covariance(), 0.4, 2),
}


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(25, 20), nn.Linear(20, 20), nn.Linear(20, 20, bias=False)]
    layers += [nn.Linear(20, 20), nn.Linear(20, 8)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))).eval()


def inputs(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(60, 25, generator=generator) for _ in range(2)]


def compressed(folder=None, batches=None, **how):
    return wc.compress(
        network(), PLAN, batches or inputs(), resume=folder, progress=False, **how
    )  # fmt: skip


def same(one, two):
    states = one.state_dict(), two.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


@pytest.fixture
def stops(monkeypatch):
    """Makes the n-th fit fail; returns the names that were fitted."""
    fitted = []
    fit = module._Fits._fit

    def after(n):
        def stopping(self, name, *args):
            if len(fitted) == n:
                raise KeyboardInterrupt
            fitted.append(name)
            return fit(self, name, *args)

        monkeypatch.setattr(module._Fits, "_fit", stopping)
        return fitted

    return after


@pytest.mark.parametrize("how", [{}, {"refresh": "never"}, {"target": "compressed"}])
@pytest.mark.parametrize("n_done", [1, 4])
def test_an_interrupted_compression_goes_on_and_gives_the_same(tmp_path, stops, how, n_done):
    expected = compressed(**how)
    fitted = stops(n_done)
    with pytest.raises(KeyboardInterrupt):
        compressed(tmp_path, **how)
    assert len(fitted) == n_done
    done = list(fitted)
    fitted = stops(99)
    assert same(compressed(tmp_path, **how), expected)
    assert set(fitted[n_done:]) == PLAN.keys() - set(done)


def test_a_finished_one_is_read_and_nothing_is_fitted(tmp_path, stops):
    first = compressed(tmp_path)
    assert not stops(0)
    assert same(compressed(tmp_path), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": inputs(1)}, "holds another compression: inputs was"),
        ({"ridge": 0.1}, r"settings.ridge was null, is now 0.1"),
    ],
)
def test_a_folder_of_another_compression_is_refused(tmp_path, change, message):
    compressed(tmp_path)
    with pytest.raises(ValueError, match=message):
        compressed(tmp_path, **change)


def test_a_damaged_file_is_named(tmp_path):
    compressed(tmp_path)
    file = next(tmp_path.glob("layer-01*"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
        compressed(tmp_path)


SCRIPT = """
import sys, os, signal
sys.path.insert(0, {folder!r})
from test_fitted import compressed, module
fit, n = module._Fits._fit, 0
def dies(self, *args):
    global n
    n += 1
    if n == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(self, *args)
module._Fits._fit = dies
compressed({states!r})
"""


def test_a_killed_process_leaves_what_it_had_done(tmp_path):
    script = SCRIPT.format(folder=str(Path(__file__).parent), states=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("layer-*"))) == 3
    assert same(compressed(tmp_path), compressed())
