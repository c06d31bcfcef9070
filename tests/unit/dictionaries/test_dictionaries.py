"""Dictionaries: what each refuses, and what only one of them does (the rest is the contract)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import weightcast as wc
from tests.contract.table import example_rows, example_statistics
from weightcast import dictionaries as d
from weightcast import kernels as k

DATA_DRIVEN = ["Covariance", "SquaredCovariance", "PCA", "KMeans", "Autoencoder"]


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_data_driven_dictionaries_ask_for_inputs(name):
    with pytest.raises(ValueError, match=rf"{name} is made from data: pass inputs="):
        getattr(d, name)().atoms(6, 2)
    with pytest.raises(ValueError, match=rf"{name} is made from data"):
        getattr(d, name)().atoms(6, 2, statistics=d.InputStatistics(10))


@pytest.mark.parametrize("name", DATA_DRIVEN)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_must_be_finite(name, bad):
    good = example_statistics(6)
    broken = {
        key: getattr(good, key).clone() for key in ("covariance", "squared_covariance", "sample")
    }
    for value in broken.values():
        value[1, 2] = bad
    with pytest.raises(ValueError, match=rf"{name}.* with 1 NaN or infinite values: clean"):
        getattr(d, name)().atoms(6, 2, statistics=d.InputStatistics(10, **broken))


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_statistics_must_be_of_as_many_inputs(name):
    with pytest.raises(ValueError, match=rf"{name}: the statistics are of 6 inputs.*has 7"):
        getattr(d, name)().atoms(7, 2, statistics=example_statistics(6))


def test_kernels_ask_for_coordinates():
    with pytest.raises(ValueError, match=r"Kernel needs the coordinates.*784 inputs: pass grid="):
        d.Kernel().atoms(784, 2)


@pytest.mark.parametrize("counts", [(0, 1, 1), (5, 0, 1), (5, -1, 1), (5, 2, 0)])
def test_counts_below_one_are_refused(counts):
    n_visible, n_atoms, columns = counts
    with pytest.raises(ValueError, match=r"each must be at least 1"):
        d.RandomConnections().atoms(n_visible, n_atoms, columns=columns)


def test_grids_must_fit():
    with pytest.raises(ValueError, match=r"has 6 inputs, the layer has 7: give a grid"):
        d.DCT().atoms(7, 2, grid=(2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: d.KMeans(n_features=0), "n_features is 0"),
        (lambda: d.Autoencoder(n_features=-2), "n_features is -2"),
        (lambda: d.Autoencoder(epochs=0), "epochs=0"),
        (lambda: d.Autoencoder(batch_size=0), "batch_size=0"),
        (lambda: d.Autoencoder(learning_rate=0.0), "learning_rate=0.0"),
        (lambda: d.Autoencoder(learning_rate=float("nan")), "learning_rate=nan"),
        (lambda: d.KMeans(whitening=-1.0), "whitening is -1.0"),
        (lambda: d.Wavelet(level=0), "level is 0"),
        (lambda: d.Wavelet("hare").atoms(8, 2), "no wavelet 'hare'.*did you mean 'haar'"),
        (lambda: d.Wavelet("bior2.2").atoms(8, 2), "'bior2.2' is not orthogonal.*haar"),
        (lambda: d.Wavelet("haar").atoms(8, 2, grid=(2, 2, 2)), "1-d and 2-d grids.*use DCT"),
        (lambda: d.KMeans(200).atoms(6, 2, statistics=example_statistics(6)),
         "KMeans with 200 clusters needs at least as many input rows, got 80"),
        (lambda: d.KMeans(3).atoms(6, 4, statistics=example_statistics(6)), "has 3 atoms, 4"),
        (lambda: d.RandomConnections(selection="groupd"), "selection is 'groupd'"),
        (lambda: d.LocalKernel(k.Exponential()), "needs a separable kernel.*SquaredExp"),
        (lambda: d.LocalKernel(window=0.0), "window is 0.0: it must be positive"),
        (lambda: d.LocalKernel(power=-1.0), "power is -1.0"),
        (lambda: d.LocalKernel(margin=float("nan")), "margin nan"),
        (lambda: d.LocalKernel().atoms(6, 2), "LocalKernel needs the coordinates"),
        (lambda: d.StoredAtoms().atoms(6, 2), "6 inputs.*no text form"),
    ],
)  # fmt: skip
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_autoencoder_that_diverges_says_so():
    rows = torch.from_numpy(example_rows(6))
    with pytest.raises(ValueError, match=r"Autoencoder learned NaN.*smaller learning rate"):
        d.Autoencoder(epochs=2, learning_rate=1e300).atoms(
            6, 2, statistics=d.InputStatistics(80, sample=rows)
        )


def test_an_autoencoder_learns_to_reconstruct():
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(400, 2, generator=generator, dtype=torch.float64)
    directions = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    sample = codes @ directions
    atoms = d.Autoencoder(n_features=4, epochs=200, learning_rate=0.01).atoms(
        10, 4, statistics=d.InputStatistics(400, sample=sample)
    )
    centred = sample - sample.mean(dim=0)
    # The four features span the two directions of the data.
    U = atoms.dictionaries()[0]
    rest = centred - centred @ torch.linalg.pinv(U).t() @ U.t()
    assert float(rest.square().sum() / centred.square().sum()) < 0.05


def test_kmeans_finds_well_separated_clusters():
    centres = torch.eye(6, dtype=torch.float64)[:3] * 10
    noise = torch.randn(90, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sample = centres.repeat(30, 1) + 0.01 * noise
    statistics = d.InputStatistics(90, covariance=torch.cov(sample.t()), sample=sample)
    # So much whitening ridge that whitening is a mere scaling.
    atoms = d.KMeans(3, whitening=1e6).atoms(6, 3, statistics=statistics).base.atoms
    expected = centres - centres.mean(dim=0)
    cosine = torch.nn.functional.cosine_similarity(atoms.unsqueeze(1), expected, dim=2)
    torch.testing.assert_close(cosine.max(dim=1).values, torch.ones(3).double(), atol=1e-3, rtol=0)


def test_random_orthonormal_columns_are_disjoint_parts_of_one_rotation():
    atoms = d.RandomGaussian(mixing="orthonormal").atoms(12, 4, columns=3)
    everything = atoms.dictionaries().transpose(0, 1).reshape(12, 12)
    torch.testing.assert_close(everything.t() @ everything, torch.eye(12).double())


def test_random_connections_use_every_input_before_any_twice():
    indices = d.RandomConnections().atoms(12, 4, columns=3).indices
    assert sorted(indices.flatten().tolist()) == list(range(12))


@pytest.mark.parametrize(("fraction", "n_visible", "n_units"), [(0.05, 784, 500), (0.3, 40, 60)])
def test_low_rank_matches_the_learned_weights(fraction, n_visible, n_units):
    matching = d.LowRank.matching_fraction(fraction, n_visible, n_units)
    layer = wc.PredictedLinear(
        n_visible, n_units, bias=False, dictionary=d.LowRank(), fraction=matching
    )
    learned = sum(p.numel() for p in layer.parameters())
    assert abs(learned - fraction * n_visible * n_units) <= (n_visible + n_units) / 2


def test_local_atoms_lie_in_their_window():
    atoms = d.LocalKernel(window=1.0).atoms(100, 3, columns=4, grid=(10, 10))
    energy = atoms.dictionaries().square().sum(dim=2).reshape(4, 10, 10)
    corners = [energy[:, :5, :5], energy[:, :5, 5:], energy[:, 5:, :5], energy[:, 5:, 5:]]
    share = torch.stack([corner.sum(dim=(1, 2)) for corner in corners]) / energy.sum(dim=(1, 2))
    torch.testing.assert_close(share.argmax(dim=0), torch.arange(4))
    assert float(share.max(dim=0).values.min()) > 0.8


def test_grouped_connections_take_the_inputs_in_turn():
    indices = d.RandomConnections(selection="grouped").atoms(8, 3, columns=4).indices
    assert indices.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]


def test_low_rank_learns_u():
    layer = wc.PredictedLinear(6, 4, dictionary=d.LowRank(), fraction=0.5, columns=2)
    before = layer.atoms.base.atoms.detach().clone()
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(8, 6)).square().sum().backward()
    optimiser.step()
    assert not torch.equal(layer.atoms.base.atoms, before)


def test_equal_layers_share_one_base_and_others_do_not():
    model = torch.nn.Sequential(*(torch.nn.Linear(12, 12) for _ in range(4)))
    rule = wc.Rule(d.Kernel(), 0.5, grid=(3, 4))
    other = wc.Rule(d.Kernel(k.SquaredExponential(2.0)), 0.5, grid=(3, 4))
    turned = wc.Rule(d.Kernel(), 0.5, grid=(4, 3))
    converted = wc.convert(model, {"0": rule, "1": rule, "2": other, "3": turned})
    bases = [layer.atoms.base for layer in converted]
    assert bases[0] is bases[1]
    assert len({id(base) for base in bases}) == 3


def test_layers_of_different_dtype_do_not_share():
    model = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Linear(12, 12).double())
    rule = wc.Rule(d.DCT(), 0.5)
    converted = wc.convert(model, {"*": rule})
    assert [layer.atoms.base.factor(0).dtype for layer in converted] == [
        torch.float32,
        torch.float64,
    ]
    U = converted[1].atoms.dictionaries()[0]
    torch.testing.assert_close(U.t() @ U, torch.eye(6).double(), rtol=0, atol=1e-12)


def test_atoms_given_to_a_layer_stay_as_they_were():
    atoms = d.DCT().atoms(12, 6)
    before = atoms.dictionaries().clone()
    wc.PredictedLinear(12, 4, dictionary=d.DCT(), fraction=0.5, atoms=atoms, dtype=torch.float32)
    assert atoms.dictionaries().dtype == torch.float64
    assert torch.equal(atoms.dictionaries(), before)


_SCRIPT = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
if sys.argv[2] == "disturbed":
    import numpy, random
    torch.manual_seed(99); numpy.random.seed(99); random.seed(99)
    torch.set_default_dtype(torch.float64)
from tests.contract.table import DICTIONARIES, example_statistics, make_dictionary
result = {}
for name in DICTIONARIES:
    atoms = make_dictionary(name, 64).atoms(
        64, 12, columns=3, grid=(8, 8), statistics=example_statistics(64), seed=3)
    result[name] = (atoms.indices, atoms.dictionaries().detach())
from weightcast import dictionaries as d, kernels as k
for kernel in (k.Exponential(2.0), k.SquaredExponential(2.0)):
    leading = d.Kernel(kernel, selection="leading", mixing="orthonormal")
    atoms = leading.atoms(400, 20, columns=3, grid=(20, 20))
    result[repr(leading)] = (atoms.indices, atoms.dictionaries())
torch.save(result, sys.argv[3])
"""


def test_another_process_with_other_threads_and_seeds_draws_the_same(tmp_path):
    """Also on a square grid, where eigenvalues coincide and eigenvectors are anyone's choice."""
    runs = []
    for threads, state in ((1, "calm"), (2, "disturbed")):
        file = tmp_path / f"{state}.pt"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONHASHSEED": str(threads),
        }
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(threads), state, str(file)],
            check=True,
            env=environment,
        )
        runs.append(torch.load(file, weights_only=True))
    for name in runs[0]:
        (indices, U), (other_indices, other_U) = runs[0][name], runs[1][name]
        assert torch.equal(indices, other_indices), name
        assert float((U - other_U).abs().max()) < 1e-10, name
