"""probe: hidden weights, predicted; between the floor and the ceiling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers.rule import layer_seed


def _smooth() -> nn.Sequential:
    """A layer of smooth filters on an 8 x 8 grid, one of noise, and a convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 20), nn.Linear(20, 4))
    K = wc.kernels.SquaredExponential(2.0)
    points = wc.Grid((8, 8)).coordinates()
    root = torch.linalg.cholesky(K(points, points) + 1e-6 * torch.eye(64))
    with torch.no_grad():
        model[0].weight.copy_((root @ torch.randn(64, 30, dtype=torch.float64)).t())
    return model


def _by_name(probe: wc.Probe, layer: str, fraction: float) -> dict[str, wc.ProbeRow]:
    return {
        row.dictionary: row for row in probe.rows if (row.layer, row.fraction) == (layer, fraction)
    }


def test_known_weights_predict_the_hidden_ones_of_smooth_filters():
    kernel = d.Kernel(wc.kernels.SquaredExponential(2.0), ridge=0.01)
    probe = wc.probe(
        _smooth(), (0.1, 0.4), {"SE": kernel, "DCT": d.DCT("leading")}, grids={"0": (8, 8)},
        progress=False,
    )  # fmt: skip
    rows = _by_name(probe, "0", 0.4)
    assert rows["floor"].r2 == pytest.approx(0.4, abs=0.1)
    assert 0.95 < rows["SE"].r2 <= rows["ceiling"].r2 <= 1
    assert 0.95 < rows["DCT"].r2 <= rows["ceiling"].r2
    assert rows["SE"].r2 > _by_name(probe, "0", 0.1)["SE"].r2
    assert probe.best("0", 0.4).dictionary in ("SE", "DCT")
    # Noise is not predicted: DCT projects on 40 % of it, no more.
    assert _by_name(probe, "1", 0.4)["DCT"].r2 == pytest.approx(0.4, abs=0.15)
    assert "coordinates" in _by_name(probe, "1", 0.4)["SE"].reason


def test_r2_is_that_of_kernel_ridge_regression_written_out():
    model, kernel = _smooth(), d.Kernel(wc.kernels.SquaredExponential(1.5), ridge=0.1)
    probe = wc.probe(
        model, (0.25,), [kernel], layers=["0"], grids={"0": (8, 8)}, seed=3, progress=False
    )
    W = model[0].weight.detach().double().numpy()
    grid = wc.Grid((8, 8))
    known = kernel.atoms(64, 16, grid=grid, seed=layer_seed(3, "0")).indices[0].numpy()
    points = grid.coordinates().numpy()
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    K = np.exp(-distance / (2 * 1.5**2))
    predicted = W[:, known] @ np.linalg.inv(K[np.ix_(known, known)] + 0.1 * np.eye(16)) @ K[known]
    variance = ((W - W.mean(1, keepdims=True)) ** 2).sum()
    expected = 1 - ((W - predicted) ** 2).sum() / variance
    assert _by_name(probe, "0", 0.25)["Kernel"].r2 == pytest.approx(expected, rel=1e-6)


def test_nothing_beats_the_ceiling_and_projections_beat_the_floor_in_expectation():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
    x = x + 0.1 * torch.randn(600, 64, generator=generator)
    probe = wc.probe(
        _smooth(),
        (0.1, 0.3),
        [d.Covariance(), d.DCT(), d.PCA(), d.Covariance(selection="leading"), d.KMeans(20)],
        inputs=[(x[:400], None), (x[400:], None)],
        progress=False,
    )
    assert {row.dictionary for row in probe.rows} == {
        "floor", "ceiling", "Covariance", "Covariance 2", "DCT", "PCA", "KMeans",
    }  # fmt: skip
    for layer in ("0", "1", "2"):
        for fraction in (0.1, 0.3):
            rows = _by_name(probe, layer, fraction)
            for row in rows.values():
                assert row.r2 <= rows["ceiling"].r2 + 1e-9
                assert row.output_r2 <= rows["ceiling"].output_r2 + 1e-6
    # Six directions are all there is to the inputs, and PCA finds them.
    assert _by_name(probe, "0", 0.1)["PCA"].output_r2 > 0.95
    assert _by_name(probe, "0", 0.1)["floor"].output_r2 < 0.95


def test_a_layers_draws_do_not_depend_on_the_others_nor_on_global_state():
    model = _smooth()
    whole = wc.probe(model, (0.2,), [d.DCT()], progress=False)
    torch.manual_seed(123)
    alone = wc.probe(model, (0.2,), [d.DCT()], layers=["1"], progress=False)
    assert _by_name(whole, "1", 0.2) == _by_name(alone, "1", 0.2)
    other = wc.probe(model, (0.2,), [d.DCT()], layers=["1"], seed=1, progress=False)
    assert _by_name(other, "1", 0.2)["DCT"] != _by_name(alone, "1", 0.2)["DCT"]


def test_a_state_dict_needs_no_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))
    of_model = wc.probe(model, (0.2,), progress=False)
    of_state = wc.probe(model.state_dict(), (0.2,), progress=False)
    assert of_model == of_state
    assert {row.layer for row in of_state.rows} == {"0", "3"}
    with pytest.raises(ValueError, match="a state dict has weights only"):
        wc.probe(model.state_dict(), inputs=torch.rand(4, 3, 5, 5))


def test_columns_have_atoms_of_their_own():
    one, four = (
        wc.probe(_smooth(), (0.1,), [d.DCT()], columns=n, layers=["1"], progress=False)
        for n in (1, 4)
    )
    ceilings = [_by_name(probe, "1", 0.1)["ceiling"].r2 for probe in (one, four)]
    assert ceilings[1] >= ceilings[0]


def test_the_table_prints_and_has_rows():
    probe = wc.probe(_smooth(), (0.05, 0.25), layers=["0"], grids={"0": (8, 8)}, progress=False)
    lines = str(probe).splitlines()
    assert " ".join(lines[0].split()) == "layer dictionary r2 at 0.05 r2 at 0.25"
    assert [line.split()[1] for line in lines[1:]] == ["floor", "Kernel", "DCT", "ceiling"]
    rows = probe.to_dict()["rows"]
    assert rows[0].keys() == {
        "layer", "dictionary", "fraction", "n_atoms", "r2", "output_r2", "reason",
    }  # fmt: skip
    assert probe.mean("DCT", 0.25) == probe.rows[5].r2
    assert probe.mean("Covariance", 0.25) is None
    with pytest.raises(ValueError, match=r"no dictionary was measured on layer '9'"):
        probe.best("9", 0.05)


def test_bad_arguments_are_refused(refuses):
    model = _smooth()
    for options, message in (
        ({"fractions": ()}, "give at least one fraction"),
        ({"fractions": (0.5, 2.0)}, r"fraction is 2.0"),
        ({"fractions": (0.01,), "layers": ["1"]}, r"layer '1': fraction .* below one atom"),
        ({"columns": 0}, "1 column or more"),
        ({"layers": ["3"]}, "no layer '3' can be probed"),
        ({"grids": {"0": (8, 9)}}, r"layer '0': the grid \(8, 9\).* has 72 inputs"),
        ({"dictionaries": {"floor": d.DCT()}}, "other names than 'floor'"),
        ({"dictionaries": ["DCT"]}, "take instances of the classes"),
        ({"dictionaries": []}, "dictionaries is empty"),
        ({"inputs": torch.randn(9, 63)}, r"failed on its inputs \(9, 63\), in module '0'"),
    ):
        with refuses(model, message):
            wc.probe(model, progress=False, **options)
    with refuses(nn.Sequential(nn.ReLU()), "there is nothing to probe"):
        wc.probe(nn.Sequential(nn.ReLU()))


def test_progress_is_shown_on_stderr(capsys):
    wc.probe(_smooth(), (0.2,))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["probing 0", "probing 1", "probing 2"]


def test_a_layer_too_small_for_an_atom_says_so_and_the_others_are_measured(capsys):
    model = nn.Sequential(nn.Linear(64, 30), nn.Linear(30, 4), nn.Linear(4, 2))
    probe = wc.probe(model, (0.1, 0.25))
    rows = _by_name(probe, "2", 0.1)
    assert {row.r2 for row in rows.values()} == {None}
    assert "below one atom" in rows["floor"].reason
    assert rows["DCT"].n_atoms == 0
    assert _by_name(probe, "2", 0.25)["DCT"].r2 is not None
    assert _by_name(probe, "1", 0.1)["DCT"].r2 is not None
    assert "2, DCT: fraction 0.1 of 4 inputs" in str(probe)
    wc.probe(model, (0.1,))
    assert "probing 2: fraction 0.1 of 4 inputs" in capsys.readouterr().err


def test_frozen_and_hooked_layers_are_read_all_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 12))
    rows = wc.probe(model, progress=False).rows
    model[0].requires_grad_(False)
    model[2].register_forward_hook(lambda *_: None)
    assert wc.probe(model, progress=False).rows == rows


@pytest.mark.parametrize("inputs", [None, "rows"])
def test_learned_atoms_are_measured_as_compress_finds_them(inputs):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 5)), torch.randn(300, 36)
    given = x if inputs else None
    both = [d.LowRank(), d.SingularVectors()]
    probed = wc.probe(model, (0.25,), both, given, layers=["0"], progress=False)
    rows = {row.dictionary: row for row in probed.rows}
    assert rows["LowRank"].r2 == rows["ceiling"].r2
    assert rows["LowRank"].output_r2 == rows["ceiling"].output_r2
    for dictionary in both:
        plan = {"0": wc.Rule(dictionary, 0.25)}
        report = wc.compression_report(
            model, wc.compress(model, plan, given, progress=False), given
        )
        error = report.rows[0].output_error if inputs else report.rows[0].weight_error
        row = rows[type(dictionary).__name__]
        if inputs:
            assert 1 - row.output_r2 == pytest.approx(error, rel=5e-3)  # the ridge is in one
        else:  # r2 has the filters' means taken out
            W = model[0].weight.detach()
            share = (W - W.mean(1, keepdim=True)).square().sum() / W.square().sum()
            assert (1 - row.r2) * float(share) == pytest.approx(error, rel=1e-3)


def test_shares_that_are_nearly_alike_have_columns_of_their_own():
    probed = wc.probe(nn.Sequential(nn.Linear(200, 3)), (0.1001, 0.1004), d.DCT(), progress=False)
    assert "r2 at 0.1001  r2 at 0.1004" in str(probed)
    with pytest.raises(ValueError, match=r"fractions is 0\.25 and columns 1: give at least one"):
        wc.probe(nn.Sequential(nn.Linear(4, 3)), 0.25, progress=False)
