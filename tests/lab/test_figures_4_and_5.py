"""The trials of figures 4 and 5: every curve is what its name says, and learns what it says."""

from collections import Counter
from itertools import product

import pytest

from weightcast import convert
from weightcast.dictionaries import (
    Autoencoder,
    Covariance,
    Kernel,
    LowRank,
    RandomConnections,
    RandomGaussian,
    SquaredCovariance,
)
from weightcast.layers.counts import ledger
from weightcast.plan.plan import Plan
from weightcast_lab.studies import figure4, figure5
from weightcast_lab.sweeps.curves import all_curves, paper_curves
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import convnet, load_images, mlp

PAIRS = {
    "LowRank": (LowRank, LowRank),
    "RandCon-RandCon": (RandomConnections, RandomConnections),
    "RandFixU-RandFixU": (RandomGaussian, RandomGaussian),
    "SE-Emp": (Kernel, Covariance),
    "SE-Emp2": (Kernel, SquaredCovariance),
    "SE-AE": (Kernel, Autoencoder),
    "Emp-Emp": (Covariance, Covariance),
}


def test_the_papers_pairs_are_what_they_are_called():
    found = {n: (type(c.on_grid), type(c.elsewhere)) for n, c in paper_curves().items()}
    assert found == PAIRS


def assert_points_are_told_apart(trials):
    """No two runs of one seed stand at the same place of the figure."""
    places = [(tuple(sorted(t.config.labels.items())), t.config.seed) for t in trials]
    assert max(Counter(places).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("figure", [figure4, figure5])
def test_the_whole_grid_has_no_place_twice(figure):
    assert_points_are_told_apart(figure.trials("full", 1, "some data"))


@pytest.mark.parametrize("preset", ["smoke", "cpu"])
@pytest.mark.parametrize("figure", [figure4, figure5])
def test_every_trial_survives_its_json_and_is_there_once(figure, preset):
    trials = figure.trials(preset, 2, "some data")
    assert_points_are_told_apart(trials)
    assert {trial.config.seed for trial in trials} == {0, 1}
    for trial in trials[::8]:
        again = Trial.from_json(trial.to_json())
        assert again.key == trial.key
        assert again.config == trial.config


def test_the_cpu_preset_has_every_curve_at_five_fractions():
    trials = figure4.trials("cpu", 3, "mnist")
    main = [t.config.labels for t in trials if t.config.labels.get("columns", 10) == 10]
    main = [m for m in main if m["activation"] == "relu" and not m["pretrained"]]
    points = Counter((label["curve"], label["fraction"]) for label in main)
    for curve in ("narrow", *all_curves()):
        assert sorted(f for c, f in points if c == curve) == sorted(figure4.FRACTIONS)
    assert points["dense", 1.0] == 3
    assert set(points.values()) == {3}


def test_the_cpu_preset_has_the_papers_sigmoids_at_five_fractions():
    labels = [t.config.labels for t in figure4.trials("cpu", 3, "mnist")]
    sigmoid = [m for m in labels if m["activation"] == "sigmoid" and not m["pretrained"]]
    points = Counter((label["curve"], label["fraction"]) for label in sigmoid)
    wanted = {(curve, f) for curve in ("narrow", *paper_curves()) for f in figure4.FRACTIONS}
    assert points.keys() == wanted | {("dense", 1.0)}
    assert set(points.values()) == {3}


@pytest.mark.slow
@pytest.mark.parametrize("figure", [figure4, figure5])
def test_the_whole_grid_has_every_setting(figure):
    found = Counter()
    for trial in figure.trials("full", 1, "some data"):
        config, label = trial.config, trial.config.labels
        assert label["activation"] == config.model.activation
        assert label["pretrained"] == (config.pretraining is not None)
        if label["curve"] == "SE-Emp":
            found[label["activation"], label["pretrained"], label["columns"]] += 1
    settings = product(("relu", "sigmoid"), (False, True), (1, 5, 10, 20))
    n_fractions = len(figure4.ALL_FRACTIONS if figure is figure4 else figure5.FRACTIONS)
    assert found == dict.fromkeys(settings, n_fractions)


@pytest.mark.parametrize("figure", [figure4, figure5])
def test_no_seeds_are_refused(figure):
    with pytest.raises(ValueError, match="seeds is 0"):
        figure.trials("smoke", 0, "digits")


@pytest.fixture(scope="module")
def digits():
    return load_images("digits").standardised().train[0][::4]


@pytest.mark.parametrize("name", sorted(all_curves()))
@pytest.mark.parametrize("fraction", [0.02, 0.25])
def test_a_curve_learns_the_share_it_says(name, fraction, digits):
    setting = figure4._setting(epochs=1)
    config = figure4.make_config(name, fraction, setting, 0, "mnist")
    plan = Plan.from_dict(config.plan)
    if isinstance(all_curves()[name].elsewhere, Autoencoder):
        pytest.skip("500 features learned from data: the covariance curves stand for it")
    learned = ledger(convert(mlp(seed=0), plan, inputs=digits)).total.learned
    weights = learned - 1000 - 5010
    expected = round(fraction * 784) * 500 + round(fraction * 500) * 500
    # A whole number of low-rank atoms comes as near as one atom of each layer.
    slack = 1284 if name == "LowRank" else 0
    assert abs(weights - expected) <= slack


def test_narrow_networks_learn_at_least_as_many_weights():
    for fraction in figure4.FRACTIONS:
        config = figure4.make_config("narrow", fraction, figure4._setting(1), 0, "mnist")
        width, _ = config.model.hidden
        count = sum(p.numel() for p in mlp(hidden=config.model.hidden).parameters())
        assert count >= figure4._count_learned(fraction)
        smaller = mlp(hidden=(width - 1, width - 1))
        assert sum(p.numel() for p in smaller.parameters()) < figure4._count_learned(fraction)


def test_layer_shapes_are_those_of_the_convnet():
    for channels, side in ((3, 32), (1, 28)):
        model = convnet((channels, side, side), seed=0)
        shapes = figure5.layer_shapes(figure5.WIDTHS, channels, side)
        for name, shape in shapes.items():
            weight = model.get_submodule(name).weight
            assert (shape.n_units, shape.n_visible) == (len(weight), weight[0].numel())
            assert (shape.grid is not None) == name.startswith("conv")


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_narrow_convnets_learn_at_least_as_many_weights(fraction):
    wanted = figure5._count(figure5.layer_shapes(figure5.WIDTHS, 3, 32), fraction, 500)
    widths = figure5.narrow_widths(fraction, 3, 32)
    count = sum(p.numel() for p in convnet(hidden=widths).parameters())
    assert wanted <= count < 1.1 * wanted


def test_a_convnet_without_four_widths_is_refused():
    with pytest.raises(ValueError, match="hidden has 2 sizes"):
        convnet(hidden=(3, 4))
