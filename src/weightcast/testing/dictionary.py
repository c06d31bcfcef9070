"""check_dictionary: what every dictionary must do, whatever its atoms."""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.checkpoint import load, save
from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, Site
from weightcast.grid import Grid
from weightcast.layers import PredictedLinear
from weightcast.plan import Plan
from weightcast.rule import Rule
from weightcast.testing.checks import (
    other_surroundings,
    require,
    require_close,
    run,
    unmoved_randomness,
)
from weightcast.testing.examples import example_statistics


def check_dictionary(
    dictionary: Dictionary,
    *,
    grid: Sequence[int] = (4, 6),
    statistics: InputStatistics | None = None,
    full_rank: bool = False,
    orthonormal: bool = False,
) -> None:
    """Check that a dictionary can be used wherever ours can.

    It is a frozen value; it builds finite, distinct atoms of the documented shapes from the
    generator that it is given and nothing else; columns differ; what it cannot do it refuses with a
    ValueError; a layer that is predicted from it learns, copies, pickles, saves and loads.

    Args:
        dictionary: an instance.
        grid: coordinates of the inputs that it is tried on; their number is its n_visible.
        statistics: of these inputs, for data-driven dictionaries; None takes those of correlated
            Gaussian rows.
        full_rank: check that all its atoms together span every filter.
        orthonormal: check that U_j^T U_j = I.

    Raises:
        AssertionError: naming the check that fails, the numbers, and what they should have been.
    """
    tried = _Tried(dictionary, Grid.of(tuple(grid)), statistics)
    checks: dict[str, Callable[[], None]] = {
        "it is a frozen dataclass": tried.is_a_value,
        "atoms have the documented shapes, in float64 on the CPU": tried.has_shapes,
        "a column holds no atom twice": tried.holds_no_atom_twice,
        "no atom is zero": tried.has_no_zero_atom,
        "columns differ": tried.columns_differ,
        "projecting is the product with U": tried.projects,
        "the same seed gives the same atoms, whatever the surroundings": tried.is_reproducible,
        "building draws from the given generator only": tried.leaves_randomness,
        "given indices are kept": tried.keeps_indices,
        "too many atoms are refused": tried.refuses_too_many,
        "missing inputs are refused": tried.refuses_missing_inputs,
        "it survives a round trip through JSON": tried.survives_json,
        "a predicted layer learns by it": tried.layer_learns,
        "fitting a layer is the least-squares projection": tried.layer_fits,
        "a layer has the dense layer's variance at first": tried.layer_starts_well,
        "a layer copies, pickles and loads its state": tried.layer_copies,
        "a saved network loads to the same outputs": tried.saves,
    }
    if full_rank:
        checks["all atoms together span every filter"] = tried.spans
    if orthonormal:
        checks["atoms are orthonormal"] = tried.is_orthonormal
    subject = f"check_dictionary({dictionary!r})"
    for name, check in checks.items():
        run(subject, check, name)


class _Tried:
    """A dictionary on one grid, and the checks."""

    def __init__(
        self, dictionary: Dictionary, grid: Grid, statistics: InputStatistics | None
    ) -> None:
        self.dictionary, self.grid, self.n_visible = dictionary, grid, grid.n_visible
        self.statistics = statistics or example_statistics(grid.n_visible)
        self.n_atoms = max(1, grid.n_visible // 4)

    def atoms(self, n_atoms: int | None = None, columns: int = 1, seed: int = 0) -> Atoms:
        return self.dictionary.atoms(
            self.n_visible,
            n_atoms or self.n_atoms,
            columns=columns,
            grid=self.grid,
            statistics=self.statistics,
            seed=seed,
        )

    def layer(self, fraction: float = 0.5, n_units: int = 7, **options: Any) -> PredictedLinear:
        given = {"columns": 3, "dtype": torch.float64, **options}
        return PredictedLinear(
            self.n_visible,
            n_units,
            dictionary=self.dictionary,
            fraction=fraction,
            grid=self.grid,
            statistics=self.statistics,
            **given,
        )

    def rows(self, n_rows: int = 5) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randn(n_rows, self.n_visible, dtype=torch.float64, generator=generator)

    def is_a_value(self) -> None:
        kind = type(self.dictionary)
        require(  # its own: a base class's fields are not all that tell it from others
            "__dataclass_params__" in vars(kind),
            f"{kind.__name__} is none: write @dataclass(frozen=True) above the class",
        )
        hash(self.dictionary)
        require(self.dictionary == self.dictionary, "it does not equal itself")

    def has_shapes(self) -> None:
        for columns in (1, 3):
            atoms, n = self.atoms(columns=columns), self.n_atoms
            require(isinstance(atoms, Atoms), f"build returns a {type(atoms).__name__}, not Atoms")
            shape = tuple(atoms.indices.shape)
            require(shape == (columns, n), f"indices are {shape}, expected {(columns, n)}")
            require(atoms.indices.dtype == torch.int64, f"indices are {atoms.indices.dtype}")
            shape = None if atoms.mixing is None else tuple(atoms.mixing.shape)
            expected = (None, (columns, n, n), (columns, n))
            blocks = shape is not None and len(shape) == 4 and shape[0] == columns
            require(blocks or shape in expected, f"mixing is {shape}, expected one of {expected}")
            U = atoms.dictionaries()
            shape, wanted = tuple(U.shape), (columns, self.n_visible, n)
            require(shape == wanted, f"U is {shape}, expected {wanted}")
            require(U.dtype == torch.float64, f"U is {U.dtype}: build in float64")
            require(U.device.type == "cpu", f"U is on {U.device}: build on the CPU")
            bad = int((~U.isfinite()).sum())
            require(bad == 0, f"{bad} of {U.numel()} entries of U are NaN or infinite")

    def holds_no_atom_twice(self) -> None:
        for n_atoms in (1, self.n_atoms, self.n_visible):
            for column, indices in enumerate(self.atoms(n_atoms, columns=4).indices.tolist()):
                n = len(set(indices))
                require(n == n_atoms, f"of {n_atoms} atoms of column {column} only {n} differ")

    def has_no_zero_atom(self) -> None:
        for columns in (1, 3):
            norms = self.atoms(self.n_visible, columns).dictionaries().norm(dim=1)
            zero = int((norms < 1e-12).sum())
            require(zero == 0, f"{zero} of {norms.numel()} atoms are zero, which no V can use")

    def columns_differ(self) -> None:
        chosen = self.atoms(columns=3).indices.sort(dim=1).values.tolist()
        same = sum(column == chosen[0] for column in chosen[1:])
        require(
            same == 0,
            f"{same} of 2 columns take the atoms of the first: columns are there to see more of "
            "the input, so draw or deal out atoms for each",
        )

    def projects(self) -> None:
        for columns in (1, 3):
            atoms, x = self.atoms(columns=columns), self.rows()
            U, values = atoms.dictionaries(), atoms.mix(atoms.project(x), of_rows=True)
            require_close(values, x @ U, 1e-9, "the projection")
            energy = U.square().sum(dim=(1, 2))
            require_close(atoms.energy(), energy, 1e-9, "the atoms' energy")
            for column in range(columns):
                require_close(atoms.dictionary(column), U[column], 1e-9, f"U of column {column}")

    def is_reproducible(self) -> None:
        expected = self.atoms(columns=3, seed=11)
        with other_surroundings():
            again = self.atoms(columns=3, seed=11)
        different = int((again.indices != expected.indices).sum())
        require(different == 0, f"{different} of {expected.indices.numel()} indices differ")
        require_close(again.dictionaries(), expected.dictionaries(), 1e-9, "U")

    def leaves_randomness(self) -> None:
        with unmoved_randomness():
            self.atoms(columns=2)

    def keeps_indices(self) -> None:
        first, generator = self.atoms(columns=3, seed=1), torch.Generator().manual_seed(2)
        site = Site(
            self.n_visible, self.n_atoms, 3, self.grid, self.statistics, generator, first.indices
        )
        again = self.dictionary.build(site)
        require(
            torch.equal(again.indices, first.indices),
            "a file's indices are replaced by a new draw: take site.choose(draw)",
        )
        if self.dictionary.rebuildable:
            require_close(
                again.dictionaries(),
                first.dictionaries(),
                1e-9,
                "U, rebuilt from its indices (rebuildable is True),",
            )

    def refuses_too_many(self) -> None:
        n_atoms = 50 * self.n_visible
        try:
            atoms = self.atoms(n_atoms)
        except ValueError as error:
            numbered = str(n_atoms) in str(error).replace(",", "")
            require(numbered, f"the message does not say that {n_atoms} were asked for: {error}")
        else:
            n = len(set(atoms.indices[0].tolist()))
            require(n == n_atoms, f"of {n_atoms} atoms for {self.n_visible} inputs only {n} differ")

    def refuses_missing_inputs(self) -> None:
        if not self.dictionary.needs:
            return
        try:
            self.dictionary.atoms(self.n_visible, self.n_atoms, grid=self.grid)
        except ValueError:
            return
        require(False, f"it needs {', '.join(self.dictionary.needs)} and builds without: take "
                       "site.require(self, ...)")  # fmt: skip

    def survives_json(self) -> None:
        plan = Plan({"0": Rule(self.dictionary, 0.25, 2, self.grid)})
        try:
            text = plan.to_json()
        except ValueError:
            return  # it holds what has no JSON form, such as a fitted estimator, and says so
        rule = Plan.from_json(text).rules["0"]
        assert rule is not None
        require(rule.dictionary == self.dictionary, f"it comes back as {rule.dictionary!r}")

    def layer_learns(self) -> None:
        layer, x = self.layer(), self.rows()
        outputs, gradients = [], []
        for path in ("factored", "materialised"):
            layer.path = path
            y = layer(x)
            outputs.append(y)
            gradients.append(torch.autograd.grad(y.square().sum(), [layer.V])[0])
        require_close(outputs[1], outputs[0], 1e-8, "the output along the materialised path")
        require_close(gradients[1], gradients[0], 1e-8, "V's gradient along the materialised path")
        dead = int((gradients[0].abs().sum(dim=0) == 0).sum())
        require(dead == 0, f"{dead} of {layer.n_units} units get no gradient")

    def layer_fits(self) -> None:
        layer, W = self.layer(), self.rows(7)
        unexplained = layer.fit(W)
        residual = W - layer.weight.detach()
        expected = float(residual.square().sum() / W.square().sum())
        require(
            abs(unexplained - expected) < 1e-8,
            f"fit says that {unexplained:.6f} of W is left, and it is {expected:.6f}",
        )
        for unit, column in enumerate(layer.unit_columns.tolist()):
            U = layer.atoms.dictionary(column).detach()
            left = float((U / U.norm(dim=0)).t().mul(residual[unit]).sum(dim=1).abs().max())
            require(left < 1e-6, f"unit {unit}'s residual is not orthogonal to U: {left:.3g} left")

    def layer_starts_well(self) -> None:
        layers = [self.layer(n_units=600, seed=seed) for seed in range(3)]
        moment = float(torch.stack([x.weight.detach().square().mean() for x in layers]).mean())
        ratio = moment * 3 * self.n_visible
        require(
            0.85 < ratio < 1.15,
            f"the weights' mean square is {ratio:.2f} times that of nn.Linear, expected 1",
        )

    def layer_copies(self) -> None:
        layer, x = self.layer(seed=1), self.rows()
        twin = self.layer(seed=2)
        twin.load_state_dict(layer.state_dict())
        twins = {
            "its deep copy": copy.deepcopy(layer),
            "its pickle": pickle.loads(pickle.dumps(layer)),
            "a layer that loads its state": twin,
        }
        for name, other in twins.items():
            require_close(other(x), layer(x), 0, f"the output of {name}")

    def saves(self) -> None:
        linear = nn.utils.skip_init(nn.Linear, self.n_visible, 7, dtype=torch.float64)
        dense, model, x = nn.Sequential(linear), nn.Sequential(self.layer()), self.rows()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # So small a layer may take more room than a dense one.
            warnings.simplefilter("ignore", UserWarning)
            save(model, Path(folder) / "model")
            loaded = load(Path(folder) / "model", dense)
        require_close(loaded(x), model(x), 1e-8, "the loaded network's output")

    def spans(self) -> None:
        U = self.atoms(self.n_visible).dictionary(0)
        rank = int(torch.linalg.matrix_rank(U))
        require(rank == self.n_visible, f"they span {rank} of {self.n_visible} directions")

    def is_orthonormal(self) -> None:
        U = self.atoms(max(1, self.n_visible // 2), columns=3).dictionaries()
        for column, gram in enumerate(U.mT @ U):
            require_close(gram, torch.eye(len(gram)).double(), 1e-8, f"U^T U of column {column}")
