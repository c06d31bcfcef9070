"""RowSample: uniform, and the same however rows are batched."""

from __future__ import annotations

import pytest
import torch

from weightcast.inputs.rows import RowSample


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [25, 0, 35], [5, 55]])
def test_a_row_sample_is_the_same_however_the_rows_are_batched(sizes):
    rows, samples = torch.arange(240.0).view(60, 4), []
    for batches in ([60], sizes):
        sample = RowSample(10, torch.Generator().manual_seed(3))
        for batch in rows.split(batches):
            sample.update(batch)
        samples.append(sample.rows)
    assert torch.equal(*samples)
    assert samples[0].shape == (10, 4)
    assert len(samples[0].unique(dim=0)) == 10
    assert bool((samples[0][:, 0] % 4 == 0).all())


def test_a_row_sample_is_uniform():
    counts = torch.zeros(50)
    for seed in range(600):
        sample = RowSample(10, torch.Generator().manual_seed(seed))
        for batch in torch.arange(50.0).view(50, 1).split(20):
            sample.update(batch)
        counts[sample.rows.flatten().long()] += 1
    assert bool(((counts / 600 - 0.2).abs() < 0.07).all())
