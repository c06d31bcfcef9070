"""Clients that keep their glosses: parts, what travels, averages; a round on Flower's engine."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

import weightcast as wc
from tests.small_minilm import small_minilm
from weightcast_lab.data.glosses import Gloss
from weightcast_lab.studies.adapting import federated
from weightcast_lab.studies.adapting.federated import (
    FIXED,
    LORA,
    RATES,
    FederatedConfig,
    Member,
    average,
    dirichlet_parts,
    measured_glosses,
    public_texts,
    rehearse,
)
from weightcast_lab.studies.adapting.methods import OURS
from weightcast_lab.studies.adapting.trained import measure

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers', of what PEFT asks

RUN = Path(__file__).parents[2] / "examples" / "federated" / "run.py"
GLOSSES = [Gloss(f"the {word} of {n} things", n % 3) for n in range(40) for word in ("use", "art")]
TEXTS = [gloss.text for gloss in GLOSSES[:30]]


@pytest.fixture
def member(monkeypatch):
    monkeypatch.setattr(federated, "minilm", small_minilm)

    def made(method, texts=TEXTS):
        return Member(FederatedConfig(method, steps=2), texts if method == OURS else ())

    return made


def learned(member, n_clients=2):
    """What each client made of the server's state, in one network in turn."""
    sent, states = member.state(), []
    for client in range(n_clients):
        member.take(sent)
        member.learn(GLOSSES[40 * client : 40 * client + 40], client, 1)
        states.append(member.state())
    return states


def test_every_example_is_one_clients_and_clients_differ():
    labels = [n % 5 for n in range(1000)]
    parts = dirichlet_parts(labels, 8, 0.5, seed=1)
    assert sorted(chain(*parts)) == list(range(1000))
    counts = [[sum(labels[i] == label for i in part) for label in range(5)] for part in parts]
    shares = torch.tensor(counts, dtype=torch.float64)
    shares /= shares.sum(1, keepdim=True)
    assert shares.std(0).mean() > 0.1  # 0.03 where all clients draw alike
    assert dirichlet_parts(labels, 8, 0.5, seed=1) == parts
    assert dirichlet_parts(labels, 8, 0.5, seed=2) != parts


def test_a_client_without_examples_is_refused():
    with pytest.raises(ValueError, match=r"3 examples leave client \d of 8 without any"):
        dirichlet_parts([0, 1, 2], 8, 0.5, seed=0)


@pytest.mark.parametrize(("method", "exact"), [(OURS, True), (FIXED, True), (LORA, False)])
def test_the_mean_changes_the_network_as_the_clients_did_in_the_mean(member, method, exact):
    own = member(method)
    states, weights = learned(own), [1, 3]
    gap = own.gap(mean := average(states, weights), states, weights)
    assert gap < 1e-6 if exact else gap > 0.01
    assert all(torch.equal(tensor, mean[name]) for name, tensor in own.state().items())
    wrong = own.gap(mean, states, [3, 1])
    assert wrong > 0.1  # weights matter


def test_v_and_the_head_alone_travel(member):
    own = member(OURS)
    names = own.state().keys()
    assert all(name.endswith("delta.V") or name.startswith("head.") for name in names)
    n_learned = sum(tensor.numel() for tensor in own.state().values())
    assert n_learned == 82_944 / 6 + 384 * 45 + 45


def test_the_mean_is_that_of_saved_adapters(member, tmp_path):
    own, weights = member(OURS), [619, 402]
    states = learned(own)
    for number, state in enumerate(states):
        own.take(state)
        wc.save(own.model.encoder, tmp_path / str(number))
    saved = wc.average([tmp_path / "0", tmp_path / "1"], weights)
    found = {
        name.removeprefix("encoder."): tensor
        for name, tensor in average(states, weights).items()
        if name.startswith("encoder.")
    }
    assert saved.keys() == found.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, found[name])


def test_the_same_texts_make_the_same_u_and_others_are_refused(member):
    server, same, other = member(OURS), member(OURS), member(OURS, TEXTS[:20])
    learned(same)  # what travels is no part of it
    server.check_same(0, same.fingerprint())
    with pytest.raises(ValueError, match="client 1 has another network or another U"):
        server.check_same(1, other.fingerprint())


def test_a_clients_steps_are_its_own(member):
    own = member(OURS)
    first, second = learned(own)
    again = learned(own, n_clients=1)  # from the second's state, in the second's network
    assert any(not torch.equal(first[name], second[name]) for name in first)
    own = member(OURS)
    (alone,) = learned(own, n_clients=1)
    assert all(torch.equal(first[name], alone[name]) for name in first)
    assert any(not torch.equal(first[name], again[0][name]) for name in first)


def test_what_does_not_fit_is_refused(member):
    with pytest.raises(ValueError, match=r"'encoder.*is not on both sides"):
        member(OURS).take(member(LORA).state())
    with pytest.raises(ValueError, match="no 'VeRA' of size 82944"):
        FederatedConfig("VeRA")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_round_on_flowers_engine(tmp_path):
    pytest.importorskip("flwr", reason="in an environment of its own: examples/federated")
    command = [sys.executable, RUN, "--method", OURS, "--n_clients", "2", "--rounds", "1"]
    rows = tmp_path / "rows.jsonl"
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*command, "--steps", "2", "--rows", rows], check=True, timeout=1700, env=os.environ | alone
    )
    (row,) = map(json.loads, rows.read_text("utf-8").splitlines())
    sent = 2 * 4 * row["counts"]["learned"]  # two clients, float32
    before, after = row["rounds"]["0"], row["rounds"]["1"]
    for way in ("bytes_up", "bytes_down"):
        assert sent < after[way] < 1.1 * sent
        assert row["metrics"][way] == before[way] + after[way]
    assert row["metrics"]["gap"] < 1e-6
    config = FederatedConfig(OURS, RATES[OURS], n_clients=2, rounds=1, steps=2)
    torch.set_num_threads(1)
    own = Member(config, public_texts(config))
    own.take(rehearse(own))
    _, nats = measure(own.model, own.encode.whole(measured_glosses(config)))
    assert row["metrics"]["test_loss"] == pytest.approx(nats, rel=1e-4)
