"""suggest: a plan that converts, with kernels where there are coordinates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.contract.test_matrix import Experts
from weightcast import dictionaries as d

IMAGES = torch.randn(40, 1, 8, 8)


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 10)
    )


def test_pixels_take_windows_hidden_layers_their_covariance():
    plan = wc.suggest(_mlp(), 0.1, inputs=[(IMAGES, torch.zeros(40))], columns=5)
    assert list(plan.rules) == ["1", "3", "*"]
    pixels, hidden = plan.rules["1"], plan.rules["3"]
    assert pixels.dictionary == d.LocalKernel()
    assert pixels.grid == wc.Grid((8, 8))
    assert isinstance(hidden.dictionary, d.Covariance)
    assert (pixels.fraction, pixels.columns) == (0.1, 5)
    assert plan.rules["*"] is None


@pytest.mark.parametrize("how", [{"fraction": 0.1}, {"budget": 0.3}])
def test_units_that_are_trained_see_more_than_a_window(how):
    torch.manual_seed(0)
    model = _mlp()
    with torch.no_grad():  # a direction that no draw has
        model[1].weight += 0.1 * torch.randn(60, 1) @ torch.randn(1, 64)
    plan = wc.suggest(model, **how, inputs=IMAGES, progress=False)
    assert plan.rules["1"].dictionary == d.Kernel(wc.kernels.SquaredExponential(2.0))
    drawn = wc.suggest(_mlp(), **how, inputs=IMAGES, progress=False)
    assert drawn.rules["1"].dictionary == d.LocalKernel()


def test_suggestions_convert_train_and_survive_json():
    for inputs in (None, IMAGES, [IMAGES[:20], IMAGES[20:]]):
        model = _mlp()
        plan = wc.suggest(model, 0.1, inputs=inputs)
        converted = wc.convert(model, plan, inputs=inputs)
        converted(IMAGES).sum().backward()
        assert type(converted[5]) is nn.Linear
        assert wc.Plan.from_json(plan.to_json()) == plan


def test_without_inputs_nothing_needs_data():
    plan = wc.suggest(_mlp(), 0.1)
    assert all(rule is None or not rule.dictionary.needs for rule in plan.rules.values())
    wc.convert(_mlp(), plan)


def test_colour_images_have_channels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Linear(20, 2))
    plan = wc.suggest(model, 0.1, inputs=torch.randn(4, 3, 8, 8))
    assert plan.rules["1"].grid == wc.Grid((8, 8), channels=3)


def test_convolutions_take_a_kernel_on_their_filters():
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 5), nn.Flatten(), nn.Linear(16, 10)
    )
    plan = wc.suggest(model, 0.25)
    assert isinstance(plan.rules["2"].dictionary, d.Kernel)
    assert "0" not in plan.rules  # 400 weights
    converted = wc.convert(model, plan)
    assert isinstance(converted[2], wc.PredictedConv2d)


def test_pointwise_convolutions_do_not_get_one_hot_atoms():
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 8, 1))
    converted = wc.convert(model, wc.suggest(model, 0.25))
    U = converted[0].atoms.dictionaries()[0]
    assert int((U.abs() > 1e-6).sum()) > U.shape[1], "each atom sees a single channel (RandCon)"


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.hidden, self.unused = (
            nn.Linear(40, 30),
            nn.Linear(50, 40),
            nn.Linear(50, 40),
        )

    def forward(self, x):
        return self.out(self.hidden(x))


def test_the_classifier_is_the_layer_that_runs_last():
    plan = wc.suggest(Backwards(), 0.1, inputs=torch.randn(5, 50))
    assert set(plan.rules) == {"hidden", "*"}


def test_columns_never_exceed_the_units():
    model = nn.Sequential(nn.Linear(500, 3), nn.Linear(3, 2))
    assert wc.suggest(model, 0.1).rules["0"].columns == 3


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan"), float("inf")])
def test_fractions_outside_the_interval_are_refused(fraction, refuses):
    model = _mlp()
    with refuses(model, rf"fraction is {fraction}.*\(0, 1\]"):
        wc.suggest(model, fraction)


def test_nothing_left_to_predict(refuses):
    model = nn.Sequential(nn.Linear(64, 10))
    with refuses(model, r"no layer to predict: of the model's 1 layer", "a Plan of your own"):
        wc.suggest(model)
    with refuses(model, "no layer to predict: of", "a Plan of your own"):
        wc.suggest(model, budget=0.5)
    message = r"at fraction 0.001: the 2 .* at most 64 inputs, and 0.064 atoms .* at least 0.0157"
    with refuses(_mlp(), message):
        wc.suggest(_mlp(), 0.001)
    assert "1" in wc.suggest(_mlp(), 0.0157).rules


@pytest.mark.usefixtures("unmoved_randomness")
def test_suggesting_changes_nothing():
    state = torch.get_rng_state()
    model = _mlp().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    torch.set_rng_state(state)
    wc.suggest(model, 0.1, inputs=IMAGES)
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def _network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 4, 40),
        nn.ReLU(),
        nn.Linear(40, 30),
        nn.ReLU(),
        nn.Linear(30, 5),
    )


COLOUR = torch.rand(40, 3, 8, 8)


@pytest.mark.parametrize("count", ["learned", "stored"])
@pytest.mark.parametrize("inputs", [None, COLOUR])
@pytest.mark.parametrize("budget", [0.12, 0.3, 2_000])
def test_a_budget_is_kept_and_nearly_spent(budget, inputs, count):
    model = _network()
    plan = wc.suggest(model, budget=budget, inputs=inputs, count=count, progress=False)
    small = wc.compress(model, plan, inputs, progress=False)
    ledger = wc.ledger(small)
    allowed = budget if isinstance(budget, int) else round(budget * ledger.total.dense)
    assert 0.9 * allowed < getattr(ledger.total, count) <= allowed
    assert wc.Plan.from_json(plan.to_json()) == plan
    assert type(small[10]) is nn.Linear
    assert type(small[3]) is nn.BatchNorm2d


def test_families_take_the_dictionaries_that_suit_them():
    plan = wc.suggest(_network(), budget=0.2, inputs=COLOUR, progress=False)
    kinds = {name: type(rule.dictionary) for name, rule in plan.rules.items() if rule}
    assert kinds.pop("0", d.Covariance) is d.Covariance  # of three channels
    assert kinds == {"2": d.ChannelCovariance, "6": d.Covariance, "8": d.Covariance}
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(96, 4))
    plan = wc.suggest(model, budget=0.5, inputs=torch.randn(20, 3, 32), progress=False)
    kinds = {type(rule.dictionary) for rule in plan.rules.values() if rule}
    assert kinds == {d.Covariance}


def test_inputs_of_few_directions_need_few_atoms():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 4))
    with torch.no_grad():
        model[0].bias.normal_()  # in many directions of the hidden layer, units switch
    flat = torch.randn(300, 3) @ torch.randn(3, 40)
    plan = wc.suggest(model, budget=0.2, inputs=flat, progress=False)
    first, second = (rule.fraction for rule in plan.rules.values() if rule)
    assert first <= 4 / 40 < second
    small = wc.compress(model, plan, flat, progress=False)
    assert wc.compression_report(model, small, flat).rows[0].output_error < 0.01


def test_a_shared_budget_beats_the_svd_of_what_layers_do():
    model = _network()
    plan = wc.suggest(model, budget=0.2, inputs=COLOUR, count="stored", progress=False)
    small = wc.compress(model, plan, COLOUR, progress=False)
    stored = wc.ledger(small).total.stored
    fractions = {"0": 75, "2": 144, "6": 96, "8": 40}
    for share in torch.linspace(0.9, 0.02, 45).tolist():
        rules = {
            name: wc.Rule(d.SingularVectors(), max(1, int(share * n)) / n)
            for name, n in fractions.items()
        }
        equal = wc.compress(model, rules, COLOUR, progress=False)
        if wc.ledger(equal).total.stored <= stored:
            break
    errors = [wc.compression_report(model, m, COLOUR).rows[-1].output_error for m in (small, equal)]
    assert errors[0] < errors[1]


def test_budgets_that_cannot_be_are_refused(refuses):
    model = _network()
    for budget, message in (
        (0.01, r"but \d+ stay dense \(the most in layer '10', 155\): take a budget above 0.0"),
        (20, r"but (\d+) stay dense .*: take a budget above \1$"),
        (300, r"\d+ numbers are left for 4 layers.* in layer '.*': raise the budget by"),
        (1.0, r"budget is 1.0: give a share of all weights in \(0, 1\)"),
        (0, "give a share of all weights"),
        (True, "give a share of all weights"),
        (math.nan, "budget is nan"),
    ):
        with refuses(model, message):
            wc.suggest(model, budget=budget, inputs=COLOUR, progress=False)
    with refuses(model, "count is 'bytes'"):
        wc.suggest(model, budget=0.3, count="bytes", progress=False)
    with refuses(model, "fraction is 0.1 and budget 0.1: give one"):
        wc.suggest(model, 0.1, budget=0.1)
    with refuses(model, "leaves room for all weights"):
        wc.suggest(model, budget=100_000, progress=False)
    with refuses(model, r"failed on its inputs \(2, 3, 3, 3\), in module '0'"):
        wc.suggest(model, budget=0.3, inputs=torch.rand(2, 3, 3, 3), progress=False)


class Wide(Experts):
    """Experts whose weights are worth predicting."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 40, 32) * 0.1)
        self.down_proj = nn.Parameter(torch.randn(3, 32, 20) * 0.1)


class Tied(nn.Module):
    """A language model of experts whose head is the table: no classifier of its own runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.experts = nn.Embedding(60, 32), nn.Linear(32, 32), Wide()
        self.head = nn.Linear(32, 60, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.experts(self.body(self.table(tokens))))


TOKENS = torch.arange(60).view(10, 6)


@pytest.mark.parametrize("inputs", [None, TOKENS])
@pytest.mark.parametrize("how", [{"fraction": 0.25}, {"budget": 0.6}])
def test_under_a_tied_head_every_layer_may_be_predicted(inputs, how):
    model = Tied()
    plan = wc.suggest(model, inputs=inputs, progress=False, **how)
    names = ["body", "experts.gate_up_proj", "experts.down_proj"]
    if "fraction" in how:
        assert list(plan.rules) == [*names, "*"]
    assert set(plan.rules) <= {*names, "*"}
    kinds = {name: type(rule.dictionary) for name, rule in plan.rules.items() if rule}
    assert kinds["experts.down_proj"] is d.DCT  # its inputs are not seen
    assert kinds["experts.gate_up_proj"] is (d.DCT if inputs is None else d.Covariance)
    wc.convert(model, plan, inputs)


@pytest.mark.parametrize("how", [{"fraction": 0.25}, {"budget": 0.4}])
def test_channels_of_one_place_have_no_order(how):
    """Kernels are for places: 1 x 1 convolutions see channels alone, as linear layers do."""
    model = nn.Sequential(
        nn.Conv2d(48, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 4, 1)
    )
    x = torch.randn(8, 48, 4, 4)
    plan = wc.suggest(model, **how, inputs=x, progress=False)
    kinds = {type(rule.dictionary) for rule in plan.rules.values() if rule}
    assert kinds == {d.Covariance}
    plan = wc.suggest(model, **how, progress=False)
    assert {type(rule.dictionary) for rule in plan.rules.values() if rule} == {d.DCT}
    wc.convert(model, plan)


def test_convolutions_of_many_channels_take_their_covariance_where_there_are_inputs():
    plan = wc.suggest(_network(), 0.25, inputs=COLOUR)
    kinds = {name: type(rule.dictionary) for name, rule in plan.rules.items() if rule}
    assert kinds == {
        "0": d.Kernel, "2": d.ChannelCovariance, "6": d.Covariance, "8": d.Covariance,
    }  # fmt: skip
    # The first's directions in a file would take more room than its dense weight; fewer do not.
    first = wc.suggest(_network(), 0.1, inputs=COLOUR).rules["0"]
    assert (type(first.dictionary), first.columns) == (d.Covariance, 1)
    wc.convert(_network(), plan, COLOUR)
    plan = wc.suggest(_network(), 0.25)
    assert isinstance(plan.rules["2"].dictionary, d.Kernel)
