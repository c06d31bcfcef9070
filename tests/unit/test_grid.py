"""Grid: the canonical order of coordinates."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightcast import Grid

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, channels=st.integers(1, 4))
def test_coordinates_follow_flatten(shape, channels):
    grid = Grid(shape, channels)
    assert grid.n_visible == channels * grid.n_points
    points = list(itertools.product(*map(range, shape)))
    assert grid.coordinates().tolist() == [list(map(float, point)) for point in points]
    image = torch.arange(grid.n_visible).reshape(channels, *shape)
    place = (channels - 1, *(extent - 1 for extent in shape))
    assert int(image[place]) == (channels - 1) * grid.n_points + len(points) - 1


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, channels=st.integers(1, 4))
def test_axes_multiply_to_coordinates(shape, channels):
    grid = Grid(shape, channels)
    axes = [axis.squeeze(1) for axis in grid.axes()]
    assert [len(axis) for axis in axes] == list(shape)
    assert torch.equal(torch.cartesian_prod(*axes).reshape(-1, len(shape)), grid.coordinates())
    assert grid.coordinates().dtype == torch.float64


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, channels=st.integers(1, 4), other=st.integers(1, 400))
def test_check_accepts_its_own_size_only(shape, channels, other):
    grid = Grid(shape, channels)
    assert grid.check(grid.n_visible) is grid
    if other != grid.n_visible:
        with pytest.raises(
            ValueError, match=rf"has {grid.n_visible} inputs, the layer has {other}"
        ):
            grid.check(other)


def test_a_grid_reads_shapes_lengths_and_grids():
    assert Grid.of((28, 28)) == Grid((28, 28))
    assert Grid.of([28, 28]) == Grid((28, 28))
    assert Grid.of(784) == Grid((784,))
    assert Grid.of(Grid((2,), 3)) == Grid((2,), 3)
    assert hash(Grid((2, 3))) == hash(Grid([2, 3]))


@pytest.mark.parametrize(
    ("shape", "channels"), [((), 1), ((0,), 1), ((3, -1), 1), ((3,), 0), ((3,), -2)]
)
def test_empty_grids_are_refused(shape, channels):
    with pytest.raises(ValueError, match=r"must be at least 1"):
        Grid(shape, channels)


def test_axes_of_one_point_come_to_an_end():
    Grid((1,) * 32)
    with pytest.raises(ValueError, match=r"33 axes: at most 32; leave out those of one point"):
        Grid((28, 28) + (1,) * 31)


@pytest.mark.parametrize("shape", [(2.5, 2), (2, 2.9), ("a",)])
def test_a_shape_counts_whole_points(shape):
    with pytest.raises(ValueError):  # noqa: PT011 - int's own message will do for words
        Grid(shape)


def test_a_mismatch_names_the_remedy():
    with pytest.raises(ValueError, match=r"multiply to 784, for example grid=\(784,\)"):
        Grid((28, 27)).check(784)


def test_the_squarest_grid_of_inputs_without_coordinates():
    shapes = {4096: (64, 64), 500: (20, 25), 12: (3, 4), 13: (13,), 1: (1,), 2: (2,)}
    for n_visible, shape in shapes.items():
        assert Grid.squarest(n_visible).shape == shape
        assert Grid.squarest(n_visible).n_visible == n_visible
