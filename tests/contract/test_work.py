"""What a dictionary says that building takes, beside what building does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.gaussian_process.kernels import RBF
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import weightcast as wc
from tests.contract.table import DICTIONARIES, example_statistics, make_dictionary
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.dictionaries.fingerprint import fingerprint
from weightcast.dictionaries.work import CUBE, NUMBER
from weightcast.storage.allowance import building

GRIDS = (wc.Grid((8, 8)), wc.Grid((5, 5), 8), wc.Grid((16, 16)))
REBUILDABLE = [name for name in DICTIONARIES if make_dictionary(name, 24).rebuildable]
DECOMPOSITIONS = ("_linalg_eigh", "_linalg_svd", "linalg_cholesky_ex", "cholesky_solve")


class _Measured(TorchDispatchMode):
    """Counts numbers that torch makes, its products and its decompositions, in one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.work = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        old = {tensor.data_ptr() for tensor in _tensors(args)}
        self.work += NUMBER * sum(t.numel() for t in _tensors([made]) if t.data_ptr() not in old)
        if name in DECOMPOSITIONS:
            short, long = sorted(args[0].shape[-2:])
            self.work += CUBE * args[0].shape[:-2].numel() * short**2 * long
        elif name in ("mm", "bmm"):
            self.work += made.numel() * args[0].shape[-1]
        return made


def _tensors(values: Any) -> list[Tensor]:
    flat = [part for v in values for part in (v if isinstance(v, (tuple, list)) else [v])]
    return [value for value in flat if isinstance(value, Tensor)]


def _counted_and_measured(
    dictionary: d.Dictionary, grid: wc.Grid, n_atoms: int, columns: int
) -> tuple[int, int]:
    n = grid.n_visible
    given = example_statistics(n) if dictionary.from_weight else None
    indices = dictionary.atoms(n, n_atoms, columns=columns, grid=grid, statistics=given).indices
    with _Measured() as measured:
        fingerprint(dictionary.build(d.Site(n, n_atoms, columns, grid, indices=indices)))
    return building(wc.Rule(dictionary, 0.5), grid, n, indices), measured.work


@pytest.mark.parametrize("name", REBUILDABLE)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("columns", [1, 4])
def test_counted_work_is_what_building_takes(name, grid, columns):
    n_atoms = grid.n_visible // (4 * columns)
    dictionary = make_dictionary(name, 24)
    counted, measured = _counted_and_measured(dictionary, grid, n_atoms, columns)
    # A number that is kept stands for those that are made on the way; windows for small calls.
    assert 1 / 20 < counted / measured < 16


@pytest.mark.parametrize("name", REBUILDABLE)
def test_counted_work_grows_as_building_does(name):
    dictionary = make_dictionary(name, 24)
    pairs = [
        _counted_and_measured(dictionary, wc.Grid((side, side)), side**2 // 8, 2)
        for side in (8, 24)
    ]
    (little, small), (much, large) = pairs
    assert 1 / 8 < (much / little) / (large / small) < 8


def test_dictionaries_that_are_not_rebuilt_count_nothing():
    site = d.Site(24, 6, grid=wc.Grid((4, 6)), indices=torch.zeros(1, 6, dtype=torch.int64))
    for name in DICTIONARIES.keys() - set(REBUILDABLE):
        assert make_dictionary(name, 24).work(site) == 0, name


def test_a_kernel_of_many_kernels_counts_each():
    one, three = k.ScikitLearnKernel(2.0 * _RBF), k.ScikitLearnKernel(2.0 * _RBF + 1.0 * _RBF)
    assert k.Matern().n_evaluations == 1
    assert one.n_evaluations == 4 * 3  # the product, the constant and the kernel
    assert three.n_evaluations == 4 * 7


_RBF = RBF(1.0)


@pytest.mark.parametrize("dictionary", [d.Kernel(), d.LocalKernel()], ids=["kernel", "local"])
def test_work_needs_the_grid_that_building_needs(dictionary):
    site = d.Site(24, 6, indices=torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs the coordinates of the layer's 24 inputs"):
        dictionary.work(site)


def test_far_indices_are_refused_before_they_are_counted():
    site = d.Site(24, 1, grid=wc.Grid((4, 6)), indices=torch.tensor([[2**40]]))
    with pytest.raises(ValueError, match=r"indices run to 1099511627776, but the base has 24"):
        d.Kernel().work(site)
