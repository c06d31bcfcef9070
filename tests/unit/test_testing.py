"""The checks for strangers catch what is broken, and say what is."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.dictionaries import Atoms, DenseBase, Dictionary
from weightcast.dictionaries.base import check_enough
from weightcast.dictionaries.selection import deal_random
from weightcast.layers import PredictedMultiheadAttention
from weightcast.testing import check_dictionary, check_layer


@dataclass(frozen=True)
class Rotations(Dictionary):
    """A sound dictionary, of which the broken ones are made."""

    def build(self, site):
        check_enough(self, site.n_atoms, site.n_visible)
        size = (site.n_visible, site.n_visible)
        square = torch.randn(size, dtype=torch.float64, generator=site.generator)
        base = DenseBase(self.change(torch.linalg.qr(square).Q))
        return Atoms(base, site.choose(lambda: self.draw(site)))

    def draw(self, site):
        return deal_random(site.n_visible, site.n_atoms, site.columns, site.generator)

    def change(self, rows):
        return rows


def test_a_sound_dictionary_of_a_stranger_passes():
    check_dictionary(Rotations(), orthonormal=True, full_rank=True)
    check_dictionary(Rotations(), grid=(3, 3, 2))


@dataclass(frozen=True)
class NotFinite(Rotations):
    def change(self, rows):
        return rows.index_fill(1, torch.tensor([3]), float("nan"))


@dataclass(frozen=True)
class Single(Rotations):
    def change(self, rows):
        return rows.float()


@dataclass(frozen=True)
class Zeroed(Rotations):
    def change(self, rows):
        return rows.index_fill(0, torch.tensor([2, 5]), 0.0)


@dataclass(frozen=True)
class Dependent(Rotations):
    def change(self, rows):
        return rows.index_copy(0, torch.tensor([0]), rows[1:2])


@dataclass(frozen=True)
class Stretched(Rotations):
    def change(self, rows):
        return 2 * rows


@dataclass(frozen=True)
class Twice(Rotations):
    def draw(self, site):
        return torch.zeros(site.columns, site.n_atoms, dtype=torch.int64)


@dataclass(frozen=True)
class Alike(Rotations):
    def draw(self, site):
        return torch.arange(site.n_atoms).expand(site.columns, -1)


@dataclass(frozen=True)
class TooFew(Rotations):
    def draw(self, site):
        return super().draw(site)[:, 1:]


@dataclass(frozen=True)
class Redrawn(Rotations):
    def build(self, site):
        return Atoms(DenseBase(torch.eye(site.n_visible).double()), self.draw(site))


@dataclass(frozen=True)
class Unseeded(Rotations):
    def draw(self, site):
        return torch.rand(site.columns, site.n_visible).argsort()[:, : site.n_atoms]


@dataclass(frozen=True)
class Thread(Rotations):
    """Its draw is the generator's, but NumPy's state moves as well."""

    def draw(self, site):
        np.random.rand()
        return super().draw(site)


@dataclass(frozen=True)
class SaysRebuildable(Rotations):
    rebuildable: ClassVar[bool] = True


@dataclass(frozen=True)
class Greedy(Rotations):
    needs: ClassVar[tuple] = ("covariance",)


@dataclass(frozen=True)
class Wordless(Rotations):
    def build(self, site):
        if site.n_atoms > site.n_visible:
            raise ValueError("too many")
        return super().build(site)


@dataclass(frozen=True)
class Wrapping(Rotations):
    def build(self, site):
        indices = torch.arange(site.columns * site.n_atoms).view(site.columns, -1)
        rows = torch.eye(site.n_visible, dtype=torch.float64)
        return Atoms(DenseBase(rows), site.choose(lambda: indices % site.n_visible))


@dataclass(frozen=True)
class Forgetful(Rotations):
    exponent: float = field(default=1.0, compare=True)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "exponent", self.exponent + 1)


class Thawed(Rotations):
    def __init__(self, exponent=2):
        object.__setattr__(self, "exponent", exponent)


BROKEN = [
    (Thawed, "it is a frozen dataclass: Thawed is none"),
    (NotFinite, r"shapes, in float64 on the CPU: \d+ of \d+ entries of U are NaN"),
    (Single, r"U is torch.float32: build in float64"),
    (TooFew, r"indices are \(1, 5\), expected \(1, 6\)"),
    (Twice, "a column holds no atom twice: of 6 atoms of column 0 only 1 differ"),
    (Zeroed, "no atom is zero: 2 of 24 atoms are zero"),
    (Alike, "columns differ: 2 of 2 columns take the atoms of the first"),
    (Unseeded, r"whatever the surroundings: \d+ of 18 indices differ"),
    (Thread, "draws from the given generator only: NumPy's global random state moved"),
    (Redrawn, "given indices are kept: a file's indices are replaced by a new draw"),
    (SaysRebuildable, r"given indices are kept: U, rebuilt from its indices .* is off by"),
    (Wordless, "too many atoms are refused: the message does not say that 1200 were asked for"),
    (Wrapping, "too many atoms are refused: of 1200 atoms for 24 inputs only 24 differ"),
    (Greedy, "missing inputs are refused: it needs covariance and builds without"),
    (Forgetful, r"JSON: it comes back as Forgetful\(exponent=3"),
]


@pytest.mark.parametrize(("kind", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.filterwarnings("error")
def test_a_broken_dictionary_is_caught(kind, message):
    with pytest.raises(AssertionError, match=message) as raised:
        check_dictionary(kind())
    assert str(raised.value).startswith(f"check_dictionary({kind.__name__}(")


def test_promises_are_checked_where_they_are_made():
    with pytest.raises(AssertionError, match="span every filter: they span 23 of 24 directions"):
        check_dictionary(Dependent(), full_rank=True)
    with pytest.raises(AssertionError, match=r"orthonormal: U\^T U of column 0 is off by 3"):
        check_dictionary(Stretched(), orthonormal=True)
    check_dictionary(Stretched())


def test_any_other_error_is_a_failure_that_names_its_check():
    @dataclass(frozen=True)
    class Crashing(Rotations):
        def draw(self, site):
            return {}["nothing"]

    with pytest.raises(AssertionError, match=r"documented shapes.*: it raises KeyError: 'nothing'"):
        check_dictionary(Crashing())


class Biasless(wc.PredictedLinear):
    def forward(self, x):
        return wc.PredictedWeight.forward(self, x, None)


class OnePath(wc.PredictedLinear):
    def forward(self, x):
        y = super().forward(x)
        return 2 * y if self.path == "materialised" else y


class Detached(wc.PredictedLinear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.detach(), self.bias)


class Extra(wc.PredictedLinear):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.gain = nn.Parameter(torch.ones(()))


class Buffered(wc.PredictedLinear):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("cache", torch.zeros(3))


class Loud(wc.PredictedLinear):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.V.data *= 2


class Careless(wc.PredictedLinear):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        torch.rand(())


class Moody(wc.PredictedLinear):
    @classmethod
    def from_dense(cls, layer, rule, **options):
        return super().from_dense(layer, rule, **options).train()


class Widening(wc.PredictedLinear):
    def to_dense(self):
        return super().to_dense().double()


class Seedless(wc.PredictedLinear):
    @classmethod
    def from_dense(cls, layer, rule, *, seed=0, **options):
        return super().from_dense(layer, rule, seed=0, **options)


class Sloppy(wc.PredictedLinear):
    def fit(self, W):
        share = super().fit(W)
        self.V.data *= 1.001
        return share


class Upcasting(wc.PredictedLinear):
    def forward(self, x):
        return super().forward(x).double()


BROKEN_LAYERS = [
    (Biasless, "what the dense layer computes with its weights: the output along 'auto' is off"),
    (OnePath, "the output along 'materialised' is off"),
    (Moody, "everything is kept: from_dense does not keep the mode"),
    (Widening, "everything is kept: to_dense makes torch.float64 of torch.float32"),
    (Extra, r"only V and the bias are learned: these are learned too: \['gain'\]"),
    (Buffered, r"buffers, which DDP sends at every step: \['cache'\]"),
    (Detached, "both paths have the same gradients: V gets no gradient"),
    (Sloppy, "fitted with all atoms it is the dense layer: the fitted weight is off"),
    (Careless, "a seed decides the draw, and nothing else does: torch's global random state moved"),
    (Seedless, "seeds 1 and 2 draw the same V"),
    (Loud, r"variance at first: their mean square is (3\.\d|4\.\d)\d times the dense layer's"),
    (Upcasting, "it takes other dtypes: its output is torch.float64, its weights torch.float32"),
]


@pytest.mark.parametrize(
    ("kind", "message"), BROKEN_LAYERS, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_layer_is_caught(kind, message):
    with pytest.raises(AssertionError, match=message) as raised:
        check_layer(kind)
    assert str(raised.value).startswith(f"check_layer({kind.__name__}): ")


def test_a_sound_layer_passes_with_a_dense_layer_and_a_rule_of_ones_own():
    rule = wc.Rule(wc.dictionaries.DCT(), 0.3, columns=3)
    check_layer(wc.PredictedLinear, nn.Linear(9, 20, bias=False), [torch.randn(2, 4, 9)], rule)


def test_a_layer_without_an_example_is_asked_for_one():
    class Odd(wc.PredictedLinear):
        dense_class = nn.Identity

    with pytest.raises(ValueError, match=r"no example for Identity: pass dense= and inputs="):
        check_layer(Odd)
    with pytest.raises(ValueError, match="pass dense= and inputs="):
        check_layer(wc.PredictedLinear, nn.Linear(3, 4))
    with pytest.raises(ValueError, match="for PredictedTransposedLinear: pass dense= and inputs="):
        check_layer(wc.PredictedTransposedLinear)


def test_a_module_that_is_split_into_layers_is_none_itself():
    attention: Any = PredictedMultiheadAttention
    with pytest.raises(ValueError, match=r"MultiheadAttention'>, no subclass of PredictedLayer"):
        check_layer(attention)


def test_the_checks_leave_the_random_state_alone(unmoved_randomness):
    check_dictionary(wc.dictionaries.RandomGaussian())
    check_layer(wc.PredictedLinear)
