"""LocalKernel: eigenvectors of the kernel seen through one window per column."""

import pytest
import torch

import weightcast as wc
from weightcast.dictionaries import LocalKernel
from weightcast.dictionaries.local import lattice_cells, lattice_counts


def explicit_local_kernel(shape, centre, length_scale, window):
    """K_j by loops over pairs of grid points, from the formula."""
    points = [(r, c) for r in range(shape[0]) for c in range(shape[1])]

    def through_window(p):
        distance = sum((a - b) ** 2 for a, b in zip(p, centre, strict=True))
        return 2.718281828459045 ** (-distance / (4 * window**2))

    K = torch.empty(len(points), len(points), dtype=torch.float64)
    for i, p in enumerate(points):
        for j, q in enumerate(points):
            distance = sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            k = 2.718281828459045 ** (-distance / (2 * length_scale**2))
            K[i, j] = through_window(p) * k * through_window(q)
    return K


def test_spans_the_leading_eigenspace_of_the_windowed_kernel():
    dictionary = LocalKernel(wc.kernels.SquaredExponential(2.0), window=1.2, power=0.0)
    U = dictionary.atoms(48, 5, columns=2, grid=(6, 8)).dictionaries()
    # Two columns on a 6 x 8 grid lie side by side: the longer axis is cut first.
    for column, centre in enumerate([(2.5, 1.5), (2.5, 5.5)]):
        values, vectors = torch.linalg.eigh(explicit_local_kernel((6, 8), centre, 2.0, 1.2))
        assert values[-5] / values[-6] > 1.01, "the span is well defined"
        leading = vectors[:, -5:]
        torch.testing.assert_close(U[column] @ U[column].t(), leading @ leading.t())


def test_power_scales_atoms_by_their_relative_eigenvalue():
    kernel = wc.kernels.SquaredExponential(2.0)
    plain = LocalKernel(kernel, 1.2, power=0.0).atoms(48, 5, grid=(6, 8)).dictionaries()[0]
    scaled = LocalKernel(kernel, 1.2, power=0.5).atoms(48, 5, grid=(6, 8)).dictionaries()[0]
    values = torch.linalg.eigvalsh(explicit_local_kernel((6, 8), (2.5, 3.5), 2.0, 1.2)).flip(0)[:5]
    torch.testing.assert_close(scaled, plain * (values / values[0]).sqrt())


def test_a_window_is_local():
    U = LocalKernel(window=1.5).atoms(784, 10, columns=16, grid=(28, 28)).dictionaries()
    energy = U[0].square().sum(dim=1).view(28, 28)  # the column in the upper left
    assert energy[:14, :14].sum() > 0.999 * energy.sum()


def test_all_columns_share_one_separable_base():
    atoms = LocalKernel().atoms(784, 39, columns=20, grid=(28, 28))
    assert atoms.base.multiply_adds < 0.25 * atoms.indices.numel() * 784


def test_margin_moves_the_centres_inwards():
    def spread(margin):
        atoms = LocalKernel(margin=margin).atoms(784, 4, columns=4, grid=(28, 28))
        energy = atoms.dictionaries().square().sum(dim=(0, 2)).view(28, 28).sum(dim=1)
        rows = torch.arange(28.0, dtype=torch.float64)
        mean = (energy * rows).sum() / energy.sum()
        return float((energy * (rows - mean).square()).sum() / energy.sum())

    assert spread(6.0) < 0.7 * spread(0.0)


@pytest.mark.parametrize(
    ("columns", "shape", "counts"),
    [(1, (28, 28), [1, 1]), (20, (28, 28), [5, 4]), (50, (28, 28), [8, 7]), (3, (40,), [3])],
)
def test_lattice_has_room_and_is_even(columns, shape, counts):
    assert lattice_counts(columns, shape) == counts
    cells = lattice_cells(counts, columns)
    assert cells.shape == (columns, len(shape))
    assert len(set(map(tuple, cells.tolist()))) == columns


@pytest.mark.parametrize("grid", [wc.Grid((5, 5), 3), wc.Grid((40,)), wc.Grid((4, 3, 4))])
@pytest.mark.parametrize("columns", [1, 3, 7])
def test_every_fraction_has_full_rank(grid, columns):
    for n_atoms in (1, 3, grid.n_visible):
        atoms = LocalKernel().atoms(grid.n_visible, n_atoms, columns=columns, grid=grid)
        ranks = torch.linalg.matrix_rank(atoms.dictionaries())
        assert ranks.tolist() == [n_atoms] * columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0.0}, "window is 0.0: it must be positive"),
        ({"power": -1.0}, "power is -1.0"),
        ({"margin": -2.0}, "margin -2.0"),
        ({"kernel": wc.kernels.Exponential()}, "needs a separable kernel.*SquaredExponential"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalKernel(**arguments)


def test_needs_a_grid():
    with pytest.raises(ValueError, match=r"LocalKernel needs the coordinates.*pass grid="):
        LocalKernel().atoms(784, 4)
