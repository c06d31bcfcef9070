"""The checks for strangers catch what is broken, and say what is."""

from dataclasses import dataclass, field, replace
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
from weightcast.testing import check_dictionary, check_layer, example_statistics


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
class Scaling(Rotations):
    """Each build standardises the covariance that other dictionaries read too."""

    def build(self, site):
        C = site.require(self, "covariance")
        d = C.diagonal().rsqrt()
        C.mul_(d).mul_(d[:, None])
        return super().build(site)


@dataclass(frozen=True)
class OwnGenerator(Rotations):
    """All of it from a generator of its own, so that every seed gets the same."""

    def build(self, site):
        return super().build(replace(site, generator=torch.Generator().manual_seed(4)))


@dataclass(frozen=True)
class OwnBase(Rotations):
    """Only the base is from a generator of its own."""

    def change(self, rows):
        square = torch.empty_like(rows)
        nn.init.normal_(square, generator=torch.Generator().manual_seed(5))
        return torch.linalg.qr(square).Q


@dataclass(frozen=True)
class OwnNumPy(Rotations):
    def change(self, rows):
        return torch.linalg.qr(torch.from_numpy(np.random.default_rng(6).random(rows.shape))).Q


@dataclass(frozen=True)
class OldNumPy(Rotations):
    def change(self, rows):
        return torch.linalg.qr(torch.from_numpy(np.random.RandomState(7).randn(*rows.shape))).Q


@dataclass(frozen=True)
class Caching(Rotations):
    """The base of whoever came first is everybody's."""

    kept: ClassVar[dict] = {}

    def build(self, site):
        size = (site.n_visible, site.n_visible)
        if size not in self.kept:
            self.kept[size] = torch.randn(size, dtype=torch.float64, generator=site.generator)
        check_enough(self, site.n_atoms, site.n_visible)
        return Atoms(DenseBase(self.kept[size]), site.choose(lambda: self.draw(site)))


@dataclass(frozen=True)
class CachingAll(Caching):
    """As above, and nothing else is drawn: only the generator tells."""

    kept: ClassVar[dict] = {}

    def draw(self, site):
        return (torch.arange(site.columns).view(-1, 1) + torch.arange(site.n_atoms)) % 24


@dataclass(frozen=True)
class Wasteful(Rotations):
    """It draws, and takes the same atoms whatever it drew."""

    def build(self, site):
        check_enough(self, site.n_atoms, site.n_visible)
        torch.rand(3, generator=site.generator)
        indices = (torch.arange(site.columns).view(-1, 1) + torch.arange(site.n_atoms)) % 24
        rows = torch.eye(site.n_visible, dtype=torch.float64)
        return Atoms(DenseBase(rows), site.choose(lambda: indices))


@dataclass(frozen=True)
class Sorting(Rotations):
    """A file's indices are put in order, in the tensor that was given."""

    def build(self, site):
        if site.indices is not None:
            site.indices.copy_(site.indices.sort(dim=1).values)
        return super().build(site)


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
    (
        Scaling,
        r"left as they are: the covariance is changed in place.*site\.require\(self, 'covariance'",
    ),
    (
        OwnGenerator,
        r"given generator only: .* from a torch.Generator of its own, of seed 4 whatever",
    ),
    (OwnBase, r"given generator only: .* from a torch.Generator of its own, of seed 5 whatever"),
    (
        OwnNumPy,
        r"given generator only: .* from a numpy.random.default_rng of its own, of seed 6 whatever",
    ),
    (
        OldNumPy,
        r"given generator only: .* from a numpy.random.RandomState of its own, of seed 7 whatever",
    ),
    (Caching, r"whatever was built before: \d+ of 6 indices differ"),
    (CachingAll, "whatever was built before: the generator is left in another state"),
    (Wasteful, "other seeds give other atoms: the generator is drawn from, and seeds 0 to 3 give"),
    (Sorting, "given indices are kept: a file's indices are replaced by a new draw"),
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


@dataclass(frozen=True)
class Seeding(Rotations):
    """Generators of its own, all of which the given one seeds."""

    def build(self, site):
        seed = int(torch.randint(2**31, (1,), generator=site.generator))
        assert np.random.default_rng(3).random() > 0  # to try something out
        rng, old = np.random.default_rng(seed), np.random.RandomState(seed)
        assert isinstance(old, np.random.RandomState)
        assert isinstance(np.random.mtrand._rand, np.random.RandomState)
        rows = torch.from_numpy(rng.random((24, 24)) + old.randn(24, 24))
        own = torch.Generator().manual_seed(seed)
        check_enough(self, site.n_atoms, site.n_visible)
        draw = lambda: deal_random(site.n_visible, site.n_atoms, site.columns, own)  # noqa: E731
        return Atoms(DenseBase(rows), site.choose(draw))


def test_dictionaries_that_draw_nothing_or_seed_generators_of_their_own_pass():
    check_dictionary(Seeding())
    check_dictionary(wc.dictionaries.DCT(selection="leading"))


def test_a_class_in_place_of_a_dictionary_is_refused_by_name():
    kind: Any = Rotations
    with pytest.raises(
        ValueError, match=r"the class Rotations: pass an instance, such as Rot.*\(\)"
    ):
        check_dictionary(kind)
    with pytest.raises(ValueError, match=r"is 3, no Dictionary"):
        check_dictionary(3)  # pyright: ignore[reportArgumentType]


def test_the_callers_statistics_are_never_changed():
    given = example_statistics(24)
    with pytest.raises(AssertionError, match="covariance is changed in place"):
        check_dictionary(Scaling(), statistics=given)
    expected = example_statistics(24).covariance
    assert given.covariance is not None
    assert expected is not None
    assert torch.equal(given.covariance, expected)


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


class Blocks(wc.PredictedLinear):
    """The layers below get no gradient."""

    def forward(self, input):
        return super().forward(input.detach())


class AutoFrozen(wc.PredictedLinear):
    """Along the default path V never learns."""

    def forward(self, input):
        if self.path == "auto":
            return nn.functional.linear(input, self.weight.detach(), self.bias)
        return super().forward(input)


class HalfGradient(wc.PredictedLinear):
    """All paths agree, and none has the dense layer's gradient."""

    def forward(self, input):
        y = super().forward(input)
        return y.detach() + (y - y.detach()) / 2


class Flat(wc.PredictedLinear):
    """Leading axes are lost."""

    def forward(self, input):
        return super().forward(input.flatten(0, -2))


class Batched(wc.PredictedConv2d):
    """An example without a batch axis comes back with one."""

    def forward(self, input):
        return super().forward(input[None] if input.dim() == 3 else input)


class Rng(wc.PredictedLinear):
    """A forward pass moves the global random state."""

    def forward(self, input):
        torch.rand(1)
        return super().forward(input)


class F32(wc.PredictedLinear):
    """Inputs are rounded to single precision."""

    def forward(self, input):
        return super().forward(input.float().to(self.V.dtype))


class F32Bias(wc.PredictedLinear):
    """The bias is rounded to single precision."""

    def forward(self, input):
        assert self.bias is not None
        return wc.PredictedWeight.forward(self, input, self.bias.float().to(self.V.dtype))


BROKEN_LAYERS = [
    (Biasless, "what the dense layer computes with its weights: the output along 'auto' is off"),
    (OnePath, "the output along 'materialised' is off"),
    (Moody, "everything is kept: from_dense does not keep the mode"),
    (Widening, "everything is kept: to_dense makes torch.float64 of torch.float32"),
    (Extra, r"only V and the bias are learned: these are learned too: \['gain'\]"),
    (Buffered, r"buffers, which DDP sends at every step: \['cache'\]"),
    (Detached, "the dense layer's gradients: V gets no gradient along 'auto'"),
    (Blocks, "the dense layer's gradients: input 0 gets no gradient along 'auto'"),
    (AutoFrozen, "the dense layer's gradients: V gets no gradient along 'auto'"),
    (HalfGradient, "the dense layer's gradients: V's gradient along 'auto' is off"),
    (Flat, r"of inputs with one more leading axis is \(10, 35\), expected \(2, 5, 35\)"),
    (Batched, r"of inputs with one leading axis fewer is \(1, 14, .*, expected \(14, "),
    (Rng, "a forward pass draws nothing: torch's global random state moved"),
    (F32, "computes with its weights: the output along 'auto' is off"),
    (F32Bias, "computes with its weights: the output along 'auto' is off"),
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


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (24, 35)], ids=str)
def test_a_sound_layer_never_fails_by_chance(size):
    for seed in range(20):
        torch.manual_seed(seed)
        check_layer(wc.PredictedLinear, nn.Linear(*size), [torch.randn(3, size[0])])


@pytest.mark.parametrize("size", [(24, 7), (64, 64)], ids=str)
@pytest.mark.parametrize("scale", [0.5, 2])
def test_a_scale_that_is_wrong_by_two_is_caught_whatever_the_draw(size, scale):
    class Scaled(wc.PredictedLinear):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.V.data *= scale

    for seed in range(3):
        torch.manual_seed(seed)
        with pytest.raises(AssertionError, match="times the dense layer's, expected about 1, with"):
            check_layer(Scaled, nn.Linear(*size), [torch.randn(3, size[0])])


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
