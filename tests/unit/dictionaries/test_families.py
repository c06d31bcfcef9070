"""families: which dictionaries suit a layer's inputs."""

from __future__ import annotations

import pytest

import weightcast as wc
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.dictionaries.families import Family

NARROW, WIDE = k.SquaredExponential(1.0), k.SquaredExponential(2.0)
LEADING = d.Covariance(selection="leading", mixing="orthonormal")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (Family(None, False), d.DCT()),
        (Family(None, True), LEADING),
        (Family(wc.Grid((1, 1), 64), True), LEADING),  # a convolution of one place
        (Family(wc.Grid((1, 1), 64), False), d.DCT()),
        (Family(wc.Grid((28, 28)), True), d.Kernel(WIDE)),
        (Family(wc.Grid((8, 8)), True, pixels=True), d.Kernel(WIDE)),
        (Family(wc.Grid((8, 8), 9), True, pixels=True), d.Kernel(WIDE)),
        (Family(wc.Grid((8, 8), 3), True, pixels=True, drawn=True), d.LocalKernel()),
        (Family(wc.Grid((64, 64)), False, pixels=True, drawn=True), d.Kernel(WIDE)),  # too large
        (Family(wc.Grid((8, 8)), True), LEADING),  # filters of 8 x 8
        (Family(wc.Grid((8, 8)), False), d.Kernel(NARROW)),
        (Family(wc.Grid((16, 16), 3), True, pixels=False), LEADING),  # patches
        (Family(wc.Grid((3, 3), 4), True), LEADING),
        (Family(wc.Grid((3, 3), 5), True), d.ChannelCovariance(NARROW)),
        (Family(wc.Grid((3, 3), 5), False), d.Kernel(NARROW)),
    ],
)
def test_the_familys_own(family, expected):
    assert family.own == expected


def test_where_all_that_is_stored_counts_more_are_compared():
    spread = d.Kernel(NARROW, selection="leading", mixing="orthonormal")
    anywhere = [d.SingularVectors(), d.SparseAtoms()]
    assert Family(None, True).stored == anywhere
    filters = Family(wc.Grid((3, 3), 2), False)
    assert filters.stored == [*anywhere, d.Kernel(NARROW), d.DCT(), spread]
    seen = Family(wc.Grid((3, 3), 2), True)  # whatever suits best where V alone is counted
    assert seen.stored == filters.stored
    assert Family(None, False).stored == [*anywhere, d.DCT()]


def test_what_a_probe_compares():
    assert list(Family(None, False).probed) == ["DCT"]
    assert list(Family(wc.Grid((5, 5), 2), True).probed) == ["Kernel", "DCT", "Covariance"]
