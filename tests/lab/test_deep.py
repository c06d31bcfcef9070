"""Deep networks with few learned weights: others' ways and ideas, each as large as it says."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from weightcast.dictionaries import DCT
from weightcast.layers import predicted_layers
from weightcast.layers.counts import ledger
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.networks.drawing import seeded
from weightcast_lab.studies.deep import ways
from weightcast_lab.studies.deep.deep_trials import (
    IDEAS_EXPERIMENT,
    DeepConfig,
    choose,
    ideas_table,
    run,
)
from weightcast_lab.studies.deep.other_layers import (
    SPARSE,
    LowRankActivation,
    SparsePlusLowRank,
    rank_for,
)
from weightcast_lab.studies.modern import PREDICTED
from weightcast_lab.studies.train import read_place
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import ModelSettings, TrainingSettings
from weightcast_lab.training.build import dense_model

SHARE = 0.25
GPT = DeepConfig(
    data="descriptions",
    model=ModelSettings("gpt", hidden=(32,), depth=5),
    training=TrainingSettings(1, 16),
    n_validation=20,
    n_train=64,
    n_inputs=20,
    context=32,
    fraction=SHARE,
)
RESNET = DeepConfig(
    data="digits",
    model=ModelSettings("resnet20", hidden=(4, 8, 16)),
    training=TrainingSettings(1, 50),
    n_validation=50,
    n_train=100,
    n_inputs=50,
    fraction=SHARE,
)
CONFIGS = {"gpt": GPT, "resnet20": RESNET}


def test_cola_has_a_non_linearity_between_its_factors():
    with seeded(0):
        layer = LowRankActivation(nn.Linear(24, 16), 0.3)
    x = torch.randn(5, 24)
    expected = nn.functional.silu(x @ layer.A.t()) @ layer.B.t() + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert len(layer.A) == rank_for(0.3, 24, 16) == 3
    # The product of factors drawn so has the variance 1 / (n_visible + n_units).
    with seeded(1):
        wide = LowRankActivation(nn.Linear(900, 700), 0.2)
    assert float((wide.B @ wide.A).detach().var()) == pytest.approx(1 / 1_600, rel=0.05)


def test_sltrain_adds_single_weights_at_places_that_stay():
    with seeded(0):
        layer = SparsePlusLowRank(nn.Linear(100, 60), 0.2)
    nn.init.normal_(layer.B)
    W = layer.scale * layer.B @ layer.A
    W.view(-1)[layer.places] += layer.S
    x = torch.randn(5, 100)
    torch.testing.assert_close(layer(x), x @ W.t() + layer.bias)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert len(layer.S) == round(SPARSE * 6_000) == len(layer.places.unique())
    assert "places" not in dict(layer.named_parameters())
    assert layer.scale == pytest.approx(16 / rank_for(0.2 - SPARSE, 100, 60))
    with pytest.raises(ValueError, match=r"more than 0\.03"):
        SparsePlusLowRank(nn.Linear(100, 60), 0.03)


def built(network, name):
    """A network made in a way, with the dense one's count of the large layers' weights."""
    config = replace(CONFIGS[network], way=name)
    data = read_place(config, Place())
    dense = dense_model(config, data.shape, data.n_classes)
    large = sum(ways._sizes(dense, config).values())
    total = sum(p.numel() for p in dense.parameters())
    model = ways.find_way(name).build(dense, config, data, SHARE)
    return model, ledger(model).total.learned, total, large


NAMES = [(n, name) for n in CONFIGS for name in ways.ideas_for(n) if "taught" not in name]


@pytest.mark.parametrize(
    ("network", "name"), [*NAMES, *(("gpt", name) for name in ways.PEERS if name not in ways.IDEAS)]
)
def test_every_way_learns_the_share(network, name):
    _, learned, total, large = built(network, name)
    share = (learned - (total - large)) / large
    # Whole atoms: of 4 channels times 9 points, of 32 units; a rank of few.
    assert share == pytest.approx(SHARE, abs=0.03)


def test_ways_differ_as_their_names_say():
    n_columns = {
        name: {layer.atoms.columns for layer in predicted_layers(built("gpt", name)[0]).values()}
        for name in ("one column", ways.OURS, "a column for each unit")
    }
    assert list(n_columns.values()) == [{1}, {4}, {32}]
    first = built("gpt", "first block dense")[0]
    assert not any(name.startswith("blocks.0.") for name in predicted_layers(first))
    shares = built("gpt", "shares by suggest")[0]
    sizes = {layer.atoms.n_atoms / layer.n_visible for layer in predicted_layers(shares).values()}
    assert len(sizes) > 1
    later, before = (
        built("gpt", f"leading directions{when}")[0] for when in ("", ", after a tenth of the data")
    )
    layers = predicted_layers(later)
    assert any(
        not torch.equal(
            layer.atoms.dictionaries(), predicted_layers(before)[name].atoms.dictionaries()
        )
        for name, layer in layers.items()
    )
    assert torch.equal(later.positions, before.positions)


def test_more_columns_go_on_from_one_that_was_trained():
    way = "more columns after a tenth of the data"
    more, fresh = (built("gpt", name)[0] for name in (way, ways.OURS))
    assert not torch.equal(more.positions, fresh.positions)  # what was learned is kept
    layers = predicted_layers(more)
    assert {layer.atoms.columns for layer in layers.values()} == {4}
    first = built("gpt", "one column")[0]
    for name, layer in layers.items():  # of one column's W a quarter, by chance of random atoms
        W = predicted_layers(first)[name].weight  # a tenth of 64 windows moves it little
        cosine = torch.cosine_similarity(layer.weight.flatten(), W.flatten(), dim=0)
        assert cosine > 0.25, name


def test_fractions_that_cannot_be_are_refused():
    dense, data = dense_model(GPT, (32,), 92), read_place(GPT, Place())
    with pytest.raises(ValueError, match=r"fraction is 0\.2, but the first have 20% of all"):
        ways.find_way("first block dense").build(dense, GPT, data, 0.2)
    with pytest.raises(ValueError, match="no way 'other'; known: random rotations"):
        replace(GPT, way="other")
    with pytest.raises(ValueError, match="the way makes its own"):
        replace(GPT, plan=Plan({PREDICTED["gpt"]: Rule(DCT(), 0.1)}).to_dict())


@pytest.mark.parametrize("network", CONFIGS)
def test_a_trial_is_measured_on_one_split(network):
    config = replace(CONFIGS[network], way=ways.OURS)
    tested, chosen = run(config, Place()), choose(config, Place())
    assert tested["metrics"].keys() - chosen["metrics"].keys() == {"test_error", "test_loss"}
    assert chosen["config"]["way"] == ways.OURS
    assert tested["metrics"]["validation_loss"] == chosen["metrics"]["validation_loss"]
    assert Trial.from_json(Trial("deep", config).to_json()).config == replace(config)


def test_the_dense_network_is_a_way_too():
    row = run(replace(GPT, fraction=1.0), Place())
    assert row["counts"]["learned"] == row["counts"]["dense"]


@pytest.mark.parametrize("name", ["norms once more", "taught by the dense network"])
def test_what_comes_after_training_changes_what_is_measured(name):
    ours, other = (choose(replace(RESNET, way=way), Place()) for way in (ways.OURS, name))
    assert ours["metrics"]["train_loss"] == other["metrics"]["train_loss"]
    assert ours["metrics"]["validation_loss"] != other["metrics"]["validation_loss"]


def test_settings_that_a_way_changes_are_in_its_row():
    row = choose(replace(GPT, way="no weight decay"), Place())
    assert row["config"]["training"]["weight_decay"] == 0.0


def test_the_table_has_the_best_rate_of_every_idea_ours_first():
    def row(way, rate, loss):
        training = {"learning_rate": rate}
        return {
            "experiment": IDEAS_EXPERIMENT.format("gpt"),
            "config": {"way": way, "training": training},
            "counts": {"learned": 1_000},
            "metrics": {"validation_loss": loss, "validation_error": 50.0},
        }

    rows = [row("one column", 0.1, 2.0), row("cosines", 0.1, 1.0), row(ways.OURS, 0.1, 3.0)]
    rows += [row("cosines", 0.2, 0.5), {"experiment": "another"}]
    lines = ideas_table(rows, "gpt").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [
        f"| {ways.OURS}",
        "| cosines",
        "| one column",
    ]
    assert "| 0.2 | 1,000 | 0.500 | 50.0 |" in lines[1]


@pytest.mark.parametrize("way", ["norms once more", "SLTrain"])
def test_a_trial_that_was_cut_off_goes_on(way, tmp_path):
    config = RESNET if way == "norms once more" else GPT
    config = replace(config, way=way, training=replace(config.training, epochs=2))
    whole = choose(config, Place())
    place = Place(checkpoints=str(tmp_path))
    choose(config, place)  # leaves the state after its last epoch
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    again = choose(config, place)
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before  # nothing was trained again
    assert again["metrics"]["validation_loss"] == whole["metrics"]["validation_loss"]
