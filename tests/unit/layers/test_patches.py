"""patches: padding as torch does it (values are in tests/oracle)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from weightcast.layers.patches import extract_patches, pad_input, reversed_padding


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"padding": "valid"}, [0, 0, 0, 0]),
        ({"padding": (1, 2)}, [2, 2, 1, 1]),
        ({"padding": "same"}, [0, 1, 1, 1]),
        ({"padding": "same", "dilation": (1, 3)}, [1, 2, 1, 1]),
    ],
)
def test_padding_runs_from_the_last_axis(options, expected):
    assert reversed_padding(nn.Conv2d(1, 1, (3, 2), **options)) == expected


def test_zero_padding_is_left_to_the_convolution():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    x = torch.randn(1, 1, 4, 4)
    assert pad_input(x, layer) == (x, (1, 1))
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    padded, rest = pad_input(x, layer)
    assert rest == 0
    assert padded.shape == (1, 1, 6, 6)


def test_rows_are_batch_then_group_then_position():
    layer = nn.Conv1d(4, 2, 2, groups=2)
    x = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
    rows = extract_patches(x, layer)
    assert rows.shape == (2 * 2 * 2, 2 * 2)
    assert rows[0].tolist() == [0, 1, 3, 4]  # first image, first group, first position
    assert rows[1].tolist() == [1, 2, 4, 5]
    assert rows[2].tolist() == [6, 7, 9, 10]  # second group
    assert rows[4].tolist() == [12, 13, 15, 16]  # second image
