"""Peers learn as many weights as the predicted network; those whose package is missing say so."""

import importlib.util

import pytest
import torch
from torch import nn

from weightcast.layers.counts import ledger
from weightcast_lab.bench import adapters
from weightcast_lab.bench import peers as module
from weightcast_lab.bench.cases import find_case
from weightcast_lab.bench.contenders import PREDICTED, Contender, build
from weightcast_lab.bench.factorised import (
    convolution_ranks,
    count_weights,
    linear_ranks,
)
from weightcast_lab.bench.peers import build_peer, find_peer, learned_weights, peers

LAYERS = ("784-500", "500-500", "1024-1024", "conv5x5-64-64", "conv3x3-256-256", "mlp", "convnet")


def skip_unless_installed(peer):
    for name in peer.packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


PAIRS = [
    (layer, name)
    for layer in LAYERS
    for name, peer in peers().items()
    if peer.convolutions or "conv" not in layer
]


@pytest.mark.parametrize(("layer", "name"), PAIRS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_peer_learns_as_many_weights_as_the_predicted_network(layer, name):
    case, peer = find_case(layer), find_peer(name)
    skip_unless_installed(peer)
    predicted, _ = build(case, Contender(PREDICTED, 0.05, "grouped", 1, "auto"))
    expected = ledger(predicted).total.learned
    model = build_peer(case, peer, 0.05)
    assert learned_weights(model) == pytest.approx(expected, rel=0.1)
    x = case.inputs(2)
    y = model(x)
    case.loss(y).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    if name != "narrow":
        assert y.shape == case.make()(x).shape


@pytest.mark.parametrize("kind", ["CP", "Tucker", "TT"])
@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.05, 0.1, 0.25])
def test_ranks_come_within_a_tenth(kind, fraction):
    inputs, outputs = (7, 7, 16), (5, 5, 20)
    target = fraction * 784 * 500
    ranks = linear_ranks(kind, inputs, outputs, round(target))
    extents = (35, 35, 320) if kind == "TT" else (*outputs, *inputs)
    assert count_weights(kind, extents, ranks) == pytest.approx(target, rel=0.1)
    shape = (64, 64, 5, 5)
    target = fraction * 64 * 64 * 25
    ranks = convolution_ranks(kind, shape, round(target))
    extents = (64, 5, 5, 64) if kind == "TT" else shape
    assert count_weights(kind, extents, ranks) == pytest.approx(target, rel=0.1)


def test_counts_are_those_of_the_factors():
    # CP: a weight per component; Tucker: a core; TT: cores between the borders.
    assert count_weights("CP", (2, 3, 4), (5,)) == 5 + 5 * (2 + 3 + 4)
    assert count_weights("Tucker", (4, 6), (2, 3)) == 2 * 3 + 4 * 2 + 6 * 3
    assert count_weights("TT", (4, 6, 8), (1, 2, 3, 1)) == 4 * 2 + 2 * 6 * 3 + 3 * 8


@pytest.mark.parametrize("name", ["cp", "tucker", "tt"])
@pytest.mark.parametrize("layer", ["784-500", "conv5x5-64-64"])
def test_factorised_weights_start_with_the_dense_variance_and_both_implementations_agree(
    name, layer
):
    skip_unless_installed(find_peer(name))
    case = find_case(layer)
    dense = case.make()[0]
    x = case.inputs(4).detach()
    one = build_peer(case, find_peer(name), 0.05, seed=3)
    other = build_peer(case, find_peer(f"{name}-reconstructed"), 0.05, seed=3)
    assert torch.allclose(one(x), other(x), atol=1e-4)
    zero = torch.zeros_like(x)
    spread = (one(x) - one(zero)).std()
    expected = nn.Sequential(dense)(x) - nn.Sequential(dense)(zero)
    assert float(spread.detach()) == pytest.approx(float(expected.std().detach()), rel=0.5)


def test_vera_stops_where_its_projections_would_fill_the_memory(monkeypatch):
    skip_unless_installed(find_peer("vera"))
    case, peer = find_case("64-32"), find_peer("vera")
    assert learned_weights(build_peer(case, peer, 0.5)) == 32 * 32 + 32
    monkeypatch.setattr(adapters, "MAX_FROZEN", 40 * (64 + 32))
    assert learned_weights(build_peer(case, peer, 0.5)) == 40 + 32 + 32


def test_the_frozen_factor_is_the_dense_weight_and_the_bias_learns():
    skip_unless_installed(find_peer("lora"))
    case = find_case("64-32")
    dense, model = case.make(seed=5), build_peer(case, find_peer("lora"), 0.25, seed=5)
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    assert [tuple(p.shape) for p in frozen.values()] == [(32, 64)]
    x = torch.randn(3, 64)
    assert torch.equal(model(x), dense(x)), "B starts at nought"
    learned = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert "bias" in learned


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert find_peer("cp").obstacle(find_case("mlp")) == (
        "cp needs tensorly and tltorch and opt_einsum: pip install 'weightcast[bench]'"
    )
    assert find_peer("narrow").obstacle(find_case("mlp")) is None


def test_a_peer_that_knows_linear_layers_only_is_kept_from_convolutions(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    assert "convolutions of convnet" in str(find_peer("vera").obstacle(find_case("convnet")))
    assert find_peer("lora").obstacle(find_case("convnet")) is None


def test_an_unknown_peer_has_a_neighbour():
    with pytest.raises(ValueError, match="did you mean 'tucker'"):
        find_peer("tukker")


def test_building_leaves_global_randomness_alone(unmoved_randomness):
    build_peer(find_case("64-32"), find_peer("low-rank"), 0.25)
    build_peer(find_case("64-32"), find_peer("narrow"), 0.25)
