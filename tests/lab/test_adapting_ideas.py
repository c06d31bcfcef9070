"""Ideas for the adapters' dictionary: each trains as many weights, and does what its name says."""

import itertools
from dataclasses import replace

import pytest
import torch

import weightcast as wc
from tests.lab.test_adapting import small  # noqa: F401
from tests.small_minilm import small_minilm
from weightcast.dictionaries import InputStatistics
from weightcast.layers import adapted_layers
from weightcast_lab.studies.adapting import directions, ideas
from weightcast_lab.studies.adapting import on_glosses as glosses
from weightcast_lab.studies.adapting.ideas import (
    DEFAULT,
    IDEAS,
    IdeaConfig,
    loss_gradients,
    table,
    trained_head,
)
from weightcast_lab.sweeps.trial import Place

N_ATOMS, COLUMNS, UNITS = 2, 3, 12


@pytest.fixture(scope="module")
def given():
    """Correlated rows with a mean, their statistics, and a W0."""
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    rows = torch.randn(500, 24, **draw) @ torch.randn(24, 24, **draw) + 3
    covariance = rows.t().cov()
    return InputStatistics(500, covariance, sample=rows, weight=torch.randn(24, UNITS, **draw))


def projected(dictionary, given, columns=COLUMNS):
    """x U of all columns, (500, columns * n_atoms), and the atoms."""
    atoms = dictionary.atoms(24, N_ATOMS, columns=columns, statistics=given)
    return given.sample @ atoms.dictionaries().transpose(0, 1).flatten(1), atoms


WHITE = [
    directions.Whitened(0.0),
    directions.Minor(0.0),
    directions.Turned(0.0),
    directions.OfOutputs(0.0),
    directions.InBlocks(0.0),
    directions.Part(0.0, part=1),
    directions.OfGradients(0.0, gradients=torch.ones(2, 24, UNITS) + torch.eye(24)[:, :UNITS]),
]


@pytest.mark.parametrize("dictionary", WHITE, ids=lambda d: type(d).__name__)
def test_white_directions_give_uncorrelated_values_of_variance_1(dictionary, given):
    values, _ = projected(dictionary, given)
    torch.testing.assert_close(values.t().cov(), torch.eye(6, dtype=torch.float64))


def test_the_default_is_the_librarys():
    given_ = InputStatistics(9, torch.diag(torch.arange(24.0, 0, -1, dtype=torch.float64)))
    for columns in (1, 5):
        a = directions.Whitened().atoms(24, N_ATOMS, columns=columns, statistics=given_)
        b = wc.dictionaries.PCA(whiten=True).atoms(24, N_ATOMS, columns=columns, statistics=given_)
        torch.testing.assert_close(a.dictionaries(), b.dictionaries())


def test_about_zero_the_mean_comes_first(given):
    values, _ = projected(directions.AboutZero(0.0), given)
    means = values.mean(dim=0).abs()
    assert int(means.argmax()) == 0
    torch.testing.assert_close(values.t() @ values / 500, torch.eye(6, dtype=torch.float64))


def test_half_whitened_scales_by_the_fourth_root(given):
    values, _ = projected(directions.Whitened(0.0, power=0.25), given, columns=1)
    variances = torch.linalg.eigvalsh(given.covariance).flip(0)[:N_ATOMS]
    torch.testing.assert_close(values.var(dim=0), variances.sqrt())


def test_of_outputs_explains_w0_best_and_of_weights_is_its_svd(given):
    def explained(dictionary):
        values, _ = projected(dictionary, given, columns=1)
        x, y = values - values.mean(0), given.sample @ given.weight
        y = y - y.mean(0)
        return float((x @ torch.linalg.lstsq(x, y).solution).square().sum() / y.square().sum())

    others = (directions.Whitened(0.0), directions.Minor(0.0), directions.OfWeights())
    best = explained(directions.OfOutputs(0.0))
    assert all(best > explained(other) for other in others)
    U = directions.OfWeights().atoms(24, 2, statistics=given).dictionary(0)
    left = torch.linalg.svd(given.weight).U[:, :2]
    torch.testing.assert_close((left.t() @ U).abs(), torch.eye(2, dtype=torch.float64))


def test_single_inputs_are_those_of_most_variance(given):
    values, atoms = projected(directions.SingleInputs(), given)
    inputs = atoms.base.rows(torch.arange(6)).argmax(dim=1)
    assert set(inputs.tolist()) == set(given.covariance.diagonal().topk(6).indices.tolist())
    torch.testing.assert_close(values.var(dim=0), torch.ones(6, dtype=torch.float64))


def test_signs_are_as_large_at_every_input_and_another_seed_draws_others():
    def drawn(seed):
        return directions.Signs().atoms(24, N_ATOMS, seed=seed).dictionary(0)

    assert torch.equal(drawn(0).abs(), torch.ones(24, N_ATOMS))
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert 0.2 < float((drawn(0) > 0).float().mean()) < 0.8


def test_parts_share_nothing_and_blocks_go_by_rank(given):
    site = {"statistics": given, "columns": COLUMNS}
    leading = torch.linalg.eigh(given.covariance).eigenvectors.flip(1)

    def ranks(dictionary):
        U = dictionary.atoms(24, N_ATOMS, **site).dictionaries().transpose(0, 1).flatten(1)
        return (leading.t() @ U).abs().argmax(dim=0).tolist()

    assert ranks(directions.Whitened()) == [0, 3, 1, 4, 2, 5]
    assert ranks(directions.Minor()) == [23, 20, 22, 19, 21, 18]
    assert ranks(directions.InBlocks()) == [0, 1, 2, 3, 4, 5]
    parts = [ranks(directions.Part(part=part)) for part in range(3)]
    assert sorted(itertools.chain(*parts)) == [*range(18)]


@pytest.mark.parametrize("times", [1, 3])
def test_mixtures_are_white_and_span_the_leading_directions(given, times):
    values, atoms = projected(directions.Mixed(0.0, times=times), given)
    rank = 3 * N_ATOMS // times
    span = torch.linalg.matrix_rank(values - values.mean(dim=0))
    assert int(span) == rank
    leading = torch.linalg.eigh(given.covariance).eigenvectors.flip(1)[:, :rank]
    U = atoms.dictionaries().transpose(0, 1).flatten(1)
    torch.testing.assert_close(leading @ (leading.t() @ U), U)
    for part in values.split(N_ATOMS, dim=1):
        torch.testing.assert_close(torch.cov(part.t()), torch.eye(N_ATOMS, dtype=torch.float64))
    assert bool(((leading.t() @ U).abs() > 1e-3 * U.norm(dim=0)).all()), "a part of each"


def test_units_with_like_filters_take_the_same_atoms(given):
    like = given.weight[:, :3].repeat(1, 4)  # units 0, 3, 6, 9 have one filter
    atoms = directions.ByClusters(clusters=3).atoms(
        24, N_ATOMS, columns=UNITS, statistics=replace(given, weight=like)
    )
    assert torch.equal(atoms.indices, atoms.indices[:3].repeat(4, 1))
    assert len(atoms.indices[:3].unique()) == 6


def test_the_steepest_directions_are_found_in_the_metric_of_the_inputs(given):
    """In white coordinates the first atom is the left singular vector of the gradients there."""
    gradients = torch.randn(4, 24, UNITS, generator=torch.Generator().manual_seed(1)).double()
    R, inverse = directions.Whitened(0.0).root(_site(given))
    white = torch.cat([*(R.t() @ gradients)], dim=1)
    U = directions.OfGradients(0.0, gradients=gradients).atoms(24, 2, statistics=given)
    left = torch.linalg.svd(white).U[:, :2]
    torch.testing.assert_close(
        (left.t() @ inverse @ U.dictionary(0)).abs(), torch.eye(2, dtype=torch.float64)
    )
    own = directions.OfOwnGradients(0.0, gradients=gradients).atoms(
        24, 2, columns=3, statistics=given
    )
    for column in range(3):
        part = R.t() @ gradients.sum(0)[:, 4 * column : 4 * column + 4]
        left = torch.linalg.svd(part).U[:, :2]
        torch.testing.assert_close(
            (left.t() @ inverse @ own.dictionary(column)).abs(), torch.eye(2, dtype=torch.float64)
        )


def _site(given):
    return wc.dictionaries.Site(24, N_ATOMS, statistics=given)


@pytest.fixture
def shallow(small, monkeypatch):  # noqa: F811
    monkeypatch.setattr(glosses, "minilm", lambda: small_minilm(intermediate=384))


LIKE_LORA = ("as many in each layer as LoRA", "the same, mixed at random")
QUICK = ("steepest directions of each column", "U made anew after a tenth of the steps")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in IDEAS]
)
def test_each_idea_learns_its_weights_for_each_unit_and_is_never_tested(shallow, name):
    row = ideas.run(IdeaConfig(name, rate=0.01, steps=2), Place())
    atoms = 4 * 4 + 2 + 12 if name in LIKE_LORA else 6 * 4
    assert row["counts"]["learned"] == atoms * 384
    assert row["metrics"]["validation_loss"] > 0
    assert not [metric for metric in row["metrics"] if "test" in metric]


@pytest.mark.slow
@pytest.mark.parametrize("name", [DEFAULT, LIKE_LORA[0]])
def test_of_minilms_layers_as_many_are_learned_as_the_table_says(small, name):  # noqa: F811
    row = ideas.run(IdeaConfig(name, rate=0.01, steps=1), Place())
    assert row["counts"]["learned"] == ideas.LEARNED


def test_a_renewed_network_computes_the_same_from_other_atoms(shallow):
    encoder, _ = small_minilm(intermediate=384)
    inputs = glosses.task(IdeaConfig(steps=1), Place()).examples
    adapted = IDEAS[DEFAULT].adapt(encoder, 4, inputs, 0)
    layers = adapted_layers(adapted)
    learned = [layer.delta.V for layer in layers.values()]
    for V in learned:
        torch.nn.init.normal_(V, std=0.1)
    optimiser = torch.optim.Adam(learned)
    torch.stack([V.sum() for V in learned]).sum().backward()
    optimiser.step()
    with torch.no_grad():
        before = adapted(inputs[0][0]).last_hidden_state
        atoms = [layer.delta.atoms.base.rows(torch.arange(64)) for layer in layers.values()]
        ideas._renew(adapted, inputs, optimiser)
        torch.testing.assert_close(
            adapted(inputs[0][0]).last_hidden_state, before, atol=1e-4, rtol=0
        )
    assert not any(V.any() for V in learned)
    assert not optimiser.state
    moved = [
        not torch.allclose(layer.delta.atoms.base.rows(torch.arange(64)), was)
        for layer, was in zip(layers.values(), atoms, strict=True)
    ]
    assert moved == [False] * 3 + [True] * 3  # queries, keys, values: nothing is below them


def test_gradients_are_those_of_the_loss_below_the_trained_head(shallow):
    encoder, _ = small_minilm(intermediate=384)
    inputs = glosses.task(IdeaConfig(steps=1), Place()).examples
    loss = trained_head(encoder, inputs, 0)
    found = loss_gradients(encoder, inputs, loss)
    assert {G.shape for G in found.values()} == {(8, 384, 384)}
    name = "encoder.layer.0.output.dense"
    weight, G = encoder.get_parameter(f"{name}.weight"), found[name].sum(0).t()

    def total():
        return float(sum(loss(tokens, labels).double() for tokens, labels in inputs))

    with torch.no_grad():  # against the gradient the loss falls, by as much as it says
        before, step = total(), 0.01 / float(G.norm())
        weight -= step * G
        assert before - total() == pytest.approx(0.01 * float(G.norm()), rel=0.05)


def test_queries_keys_and_values_apart_see_three_times_as_many_directions(shallow):
    encoder, _ = small_minilm(intermediate=384)
    inputs = glosses.task(IdeaConfig(steps=1), Place()).examples
    for name, seen in ((DEFAULT, 64), ("queries, keys, values apart", 192)):
        layers = adapted_layers(IDEAS[name].adapt(encoder, 4, inputs, 0))
        bases = [
            layers[f"encoder.layer.0.attention.self.{part}"].delta.atoms.base.rows(torch.arange(64))
            for part in ("query", "key", "value")
        ]
        assert int(torch.linalg.matrix_rank(torch.cat(bases), rtol=1e-4)) == seen


def test_only_ideas_of_the_table_are_run():
    with pytest.raises(ValueError, match="no method 'LoRA'"):
        IdeaConfig("LoRA")


def test_the_table_takes_the_best_rate_and_pairs_seeds_with_the_default():
    def row(idea, rate, seed, error, nats):
        metrics = {"validation_error": error, "validation_loss": nats}
        return {"labels": {"idea": idea, "rate": rate}, "seed": seed, "metrics": metrics}

    rows = [
        *(row(DEFAULT, 0.01, seed, 30.0 + seed, 1.0) for seed in range(3)),
        row(DEFAULT, 0.02, 0, 20.0, 2.0),
        row(DEFAULT, 0.005, 0, 20.0, 2.0),
        *(row("no ridge", 0.02, seed, 29.0 + seed, 0.9) for seed in range(3)),
        row("minor directions", 0.005, 0, 40.0, 1.5),
    ]
    _, _, first, second, third = table(rows).splitlines()
    assert first.endswith("| 0.01 | 30.00 | 1.000 | 31.00 | 1.000 |")
    assert second.endswith("| 0.02 of 1 tried | 29.00 | 0.900 | 30.00 (-1.00) | 0.900 (-0.100) |")
    assert third.endswith("| 0.005 of 1 tried | 40.00 | 1.500 |  |  |")
