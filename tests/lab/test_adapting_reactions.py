"""What of a fine-tune's change U spans: shares by hand, reactions drawn by a small network."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

import weightcast as wc
from weightcast.inputs.moments import Moments
from weightcast_lab.studies.adapting import on_reactions as reactions
from weightcast_lab.studies.adapting.methods import WHITENED
from weightcast_lab.studies.adapting.on_reactions import DICTIONARIES, Change

TOKENS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "Cl", "Br", "1", ">>"]


def of_rows(rows):
    found = Moments()
    found.update(rows)
    return found


def make_change(filters, scale):
    """Of a layer whose inputs are independent, with these standard deviations."""
    n_units, n_visible = filters.shape
    layer = nn.Linear(n_visible, n_units)
    rows = torch.randn(2_000, n_visible, generator=torch.Generator().manual_seed(0)) * scale
    seen, held = of_rows(rows[:1_000]), of_rows(rows[1_000:]).metric()
    return Change("encoder.layer.0.output.dense", layer, filters.double(), seen, held)


def test_a_change_along_the_inputs_is_met_by_their_directions_alone():
    scale = torch.ones(16)
    scale[:2] = 10
    filters = torch.zeros(8, 16)
    filters[:, :2] = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    change = make_change(filters, scale)
    met = change.met(wc.Rule(WHITENED, n_atoms=2), 0)
    assert min(met.values()) > 0.98
    drawn = change.met(wc.Rule(DICTIONARIES[reactions.RANDOM], n_atoms=2), 0)
    assert drawn["weights"] < 0.5


def test_the_most_is_by_hand_that_of_each_column():
    filters = torch.zeros(4, 6)
    filters[:2, 0], filters[2:, 1] = 1.0, 1.0
    change = make_change(filters, torch.ones(6))
    assert change.most(1, 2)["weights"] == pytest.approx(1)
    assert change.most(1, 1)["weights"] == pytest.approx(0.5)
    assert change.most(2, 1)["outputs"] == pytest.approx(1)


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_no_dictionary_meets_more_than_the_most(dictionary, columns):
    generator = torch.Generator().manual_seed(2)
    change = make_change(torch.randn(8, 16, generator=generator), torch.arange(1, 17))
    met = change.met(wc.Rule(DICTIONARIES[dictionary], n_atoms=2, columns=columns), 0)
    most = change.most(2, columns)
    assert 0 < met["weights"] <= most["weights"] + 1e-9
    assert 0 < met["outputs"] <= most["outputs"] + 1e-9


def small_network():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(TOKENS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=80,
    )  # fmt: skip
    return BertForMaskedLM(config).eval()


def test_reactions_have_an_arrow_between_tokens_that_stand_for_something():
    network = small_network()
    drawn = list(reactions.draw_reactions(network, TOKENS, 60, 0))
    again = list(reactions.draw_reactions(network, TOKENS, 60, 0))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert [len(batch) for batch in drawn] == [20, 20, 20]
    for batch in drawn:
        for own in batch.tolist():
            words = [TOKENS[n] for n in own]
            assert (words.pop(0), words.pop()) == ("[CLS]", "[SEP]")
            assert words.pop(3 * len(own) // 5 - 1) == ">>"
            assert {*words} <= {"C", "Cl", "Br", "1"}


def test_the_longest_token_is_taken():
    found = reactions.numbers("C1CCl>>CBr", TOKENS)
    assert [TOKENS[n] for n in found[0, 1:-1]] == ["C", "1", "C", "Cl", ">>", "C", "Br"]


def test_moments_are_those_of_each_layers_inputs():
    network = small_network().bert
    names = ["encoder.layer.0.attention.self.query", "encoder.layer.0.output.dense"]
    batches = list(reactions.draw_reactions(small_network(), TOKENS, 40, 0))
    found = reactions.moments(network, names, batches)
    with torch.no_grad():
        rows = torch.cat([network.embeddings(batch).flatten(0, 1) for batch in batches])
    assert found[names[0]].n_rows == len(rows)
    torch.testing.assert_close(
        found[names[0]].covariance(), rows.double().t().cov(), rtol=1e-4, atol=1e-5
    )
    assert found[names[1]].covariance().shape == (32, 32)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_shares_are_means_over_the_layers_of_a_type():
    filters = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    one = make_change(filters, torch.ones(16))
    two = Change("encoder.layer.0.attention.output.dense", one.layer, filters.double(), one.seen,
                 one.held)  # fmt: skip
    row = reactions.shares([one, two, two], reactions.LARGEST, 2, 1, 0)
    most = one.most(2, 1)["weights"]
    assert row["weights, second of the MLP"] == row["weights, attention's output"] == most
    assert row["weights, all"] == pytest.approx(most)


def test_the_table_has_percents_of_outputs_and_weights():
    config = {"fine_tune": "ft", "n_atoms": 4, "columns": 16}
    metrics = {"outputs, all": 0.5, "weights, all": 0.25}
    rows = [{"labels": {"method": name} | config, "metrics": metrics} for name in DICTIONARIES]
    other = {"outputs, all": 0.7, "weights, all": 0.35}
    rows.append({"labels": {"method": reactions.RANDOM} | config, "metrics": other})
    lines = reactions.table(rows, ["all"], [(4, 16)]).splitlines()
    assert lines[2] == (
        "| ft, 4, 16: all | 50.0 / 25.0 | 50.0 / 25.0 | 60.0 ± 14.1 / 30.0 ± 7.1 |  /  |"
    )
