"""Modules that read their weights themselves: split, lent weights, joined again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import weightcast as wc
from tests.contract.test_matrix import Experts
from weightcast import dictionaries as d
from weightcast.inputs.gather import collect_rows
from weightcast.inputs.hooks import observing
from weightcast.inputs.replay import Replay
from weightcast.layers import predicted_layers

DCT = wc.Rule(d.DCT(), 0.5)
COVARIANCE = wc.Rule(d.Covariance(), 0.5)
RECURRENT = {
    "LSTM": lambda **o: nn.LSTM(8, 6, 2, bidirectional=True, **o),
    "GRU": lambda **o: nn.GRU(8, 6, 2, bidirectional=True, **o),
    "RNN": lambda **o: nn.RNN(8, 6, 2, bidirectional=True, **o),
}


def _rows(module: nn.Module, name: str, *inputs) -> torch.Tensor:
    """What one of the module's weights meets."""
    batches, generator = [{"inputs": inputs}], torch.Generator().manual_seed(0)
    return collect_rows(_Call(module), f"module.{name}", Replay(batches, [], {}), 10_000, generator)


class _Call(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs):
        return self.module(*inputs)


def test_what_projections_meet():
    attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.3).double().eval()
    x, y = torch.randn(2, 5, 8).double(), torch.randn(2, 4, 8).double()
    torch.testing.assert_close(_rows(attention, "in_proj", x, x, x), x.flatten(0, 1))
    # Queries, keys and values side by side; of the shorter ones some rows come twice.
    again = y.flatten(0, 1)[torch.arange(10) % 8]
    side_by_side = torch.cat([x.flatten(0, 1), again, again], dim=1)
    torch.testing.assert_close(_rows(attention, "in_proj", x, y, y), side_by_side)
    rows = _rows(attention, "out_proj", x, y, y)
    projected = rows @ attention.out_proj.weight.t() + attention.out_proj.bias
    torch.testing.assert_close(projected.view(2, 5, 8), attention(x, y, y)[0])


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_what_gates_meet(kind, batch_first, given):
    module = RECURRENT[kind](batch_first=batch_first).double()
    x = torch.randn(5, 3, 8).double()
    start = torch.randn(4, 3, 6).double()
    hx = ((start, torch.randn(4, 3, 6).double()) if kind == "LSTM" else start) if given else None
    inputs = (x.transpose(0, 1) if batch_first else x, hx)
    output = module(*inputs)[0]
    output = output.transpose(0, 1) if batch_first else output
    torch.testing.assert_close(_rows(module, "ih_l0", *inputs), x.flatten(0, 1))
    forward, backward = output.chunk(2, -1)
    first = start if given else torch.zeros_like(start)
    before = torch.cat([first[2:3], forward[:-1]])
    torch.testing.assert_close(_rows(module, "hh_l1", *inputs), before.flatten(0, 1))
    after = torch.cat([backward[1:], first[3:4]])
    torch.testing.assert_close(_rows(module, "hh_l1_reverse", *inputs), after.flatten(0, 1))


@pytest.mark.parametrize("kind", RECURRENT)
def test_packed_sequences(kind):
    module = RECURRENT[kind]().double()
    x, lengths = torch.randn(5, 3, 8).double(), [3, 5, 2]
    start = torch.randn(2, 4, 3, 6).double()
    hx = tuple(start) if kind == "LSTM" else start[0]
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    model = wc.convert(module, {"*": DCT})
    merged = wc.merge(model)
    torch.testing.assert_close(model(packed, hx)[0].data, merged(packed, hx)[0].data)
    for name in ("hh_l1", "hh_l1_reverse"):
        rows = _rows(module, name, packed, hx)
        assert len(rows) == sum(lengths)
        alone = []  # one sequence after the other goes through the same states
        for i, length in enumerate(lengths):
            own = start[:, :, i : i + 1].contiguous()
            inputs = x[:length, i : i + 1], tuple(own) if kind == "LSTM" else own[0]
            alone.append(_rows(module, name, *inputs))
        expected = torch.cat(alone)
        order = np.lexsort(rows.numpy().T), np.lexsort(expected.numpy().T)
        torch.testing.assert_close(rows[order[0].copy()], expected[order[1].copy()])


def test_dictionaries_are_made_of_what_is_met():
    model = nn.Sequential(nn.Linear(4, 8), nn.LSTM(8, 6))
    x = torch.randn(20, 3, 4)
    converted = wc.convert(model, {"0": DCT, "1": COVARIANCE}, inputs=x)
    rows = converted[0](x).detach().flatten(0, 1).double().numpy()
    np.testing.assert_allclose(converted[1].ih_l0.atoms.base.atoms, np.cov(rows.T), atol=1e-5)
    assert converted[1].hh_l0.atoms.base.atoms.shape == (6, 6)


def test_what_is_hidden_inside_is_refused_by_name_or_left_dense(refuses):
    model, x = nn.Sequential(Experts()), torch.randn(30, 8)
    with refuses(model, "layer '0.down_proj'", "what experts compute inside is not seen"):
        wc.convert(model, {"0.down_proj": COVARIANCE}, inputs=x, inplace=True)
    converted = wc.convert(model, {"*": COVARIANCE}, inputs=x)
    assert list(predicted_layers(converted)) == ["0.gate_up_proj"]
    merged = wc.merge(converted)
    assert type(merged[0]) is Experts
    assert torch.equal(merged[0].down_proj, model[0].down_proj)


def test_each_expert_can_have_atoms_of_its_own():
    model = nn.Sequential(Experts())
    converted = wc.convert(model, {"0.gate_up_proj": wc.Rule(d.RandomGaussian(), 0.5, columns=3)})
    layer = converted[0].gate_up_proj
    assert layer.unit_columns.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    W = layer.weight
    for expert, U in enumerate(layer.atoms.dictionaries()):
        rest = W[expert].t() - U @ torch.linalg.lstsq(U, W[expert].t()).solution
        assert float(rest.detach().abs().max()) < 1e-4


def test_parents_find_the_attributes_and_the_weights_of_the_module():
    model = wc.convert(nn.Sequential(nn.MultiheadAttention(8, 2), nn.LSTM(8, 6)), {"*": DCT})
    attention, lstm = model
    assert (attention.embed_dim, attention.num_heads, attention.batch_first) == (8, 2, False)
    assert attention.in_proj_weight.shape == (24, 8)
    assert attention.in_proj_weight.requires_grad
    assert lstm.weight_hh_l0.shape == (24, 6)
    assert lstm.hidden_size == 6
    for module in (attention, lstm):
        with pytest.raises(AttributeError, match="nothing_of_the_kind"):
            _ = module.nothing_of_the_kind


def test_an_encoder_layers_fast_path_reads_the_predicted_weights():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    converted = wc.convert(layer, {"*": DCT})
    assert len(predicted_layers(converted)) == 4
    x = torch.randn(2, 5, 8)
    slow = converted(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(converted(x), slow)
        converted.self_attn.in_proj.V.zero_()
        assert float((converted(x) - slow).abs().max()) > 1e-3
    assert len(wc.verify(wc.convert(layer, {"*": DCT}), x)) == 4


def test_observing_the_weights_of_modules_puts_nothing_in_their_place():
    model = nn.Sequential(nn.LSTM(8, 6), nn.ModuleDict({"a": nn.MultiheadAttention(8, 2)}))
    modules, x = dict(model.named_modules()), torch.randn(4, 2, 8)
    before, seen = model[0](x)[0], []
    names = ["0.ih_l0", "0.hh_l0", "1.a.in_proj", "1.a.out_proj"]
    with observing(model, names, lambda name, layer, _: seen.append((name, layer.weight))):
        assert dict(model.named_modules()) == modules
        torch.testing.assert_close(model[0](x)[0], before)
        model[1]["a"](x, x, x)
    assert [name for name, _ in seen] == names
    assert {id(p) for _, p in seen} < {
        id(p) for module in modules.values() for p in module.parameters()
    }
    assert dict(model.named_modules()) == modules
    assert not any(m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(model[0](x)[0], before)


def test_failing_half_way_joins_what_was_split(refuses):
    model = nn.Sequential(nn.LSTM(8, 6), nn.Linear(6, 3))
    with refuses(model, "layer '1'", "below one atom"):
        wc.convert(model, {"0": DCT, "1": wc.Rule(d.DCT(), 0.01)}, inplace=True)
    assert type(model[0]) is nn.LSTM


def test_some_weights_of_a_module(tmp_path):
    model = nn.Sequential(nn.LSTM(8, 6, 2))
    converted = wc.convert(model, {"0.hh_l1": DCT})
    assert list(predicted_layers(converted)) == ["0.hh_l1"]
    more = wc.convert(converted, {"0.ih_l0": DCT})
    assert list(predicted_layers(more)) == ["0.ih_l0", "0.hh_l1"]
    x = torch.randn(4, 2, 8)
    merged = wc.merge(more)
    assert type(merged[0]) is nn.LSTM
    torch.testing.assert_close(merged(x)[0], more(x)[0])
    assert list(merged.state_dict()) == list(model.state_dict())
    wc.save(more, tmp_path / "model")
    torch.testing.assert_close(wc.load(tmp_path / "model", model)(x)[0], more(x)[0])


def test_a_module_alone_is_not_split_in_place(refuses):
    module = nn.LSTM(8, 6)
    with refuses(module, "itself a single layer, which inplace=True cannot replace"):
        wc.convert(module, {"*": DCT}, inplace=True)


def test_training_moves_every_v_and_every_bias():
    torch.manual_seed(0)
    model = wc.convert(nn.Sequential(nn.GRU(8, 6, bidirectional=True)), {"*": DCT}).train()
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(5, 3, 8))[0].square().sum().backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_transformers_networks():
    transformers = pytest.importorskip("transformers")
    ids = torch.arange(14).view(2, 7)
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip
    mixtral = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **small, intermediate_size=24, num_key_value_heads=2, num_local_experts=4
        )
    )
    for network, n_layers, n_learned in ((gpt, 7, 6), (mixtral, 8, 8)):
        converted = wc.convert(network, {"*": wc.Rule(d.DCT(), 1.0)})
        layers = predicted_layers(converted)
        assert len(layers) == n_layers
        assert len({id(layer.V) for layer in layers.values()}) == n_learned
        dense = wc.plan.convertible_layers(network)
        for name, layer in layers.items():
            layer.fit(dense[name].weight)
        with torch.no_grad():
            expected = network.eval()(ids).logits
            found = converted.eval()(ids).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert len(wc.verify(converted, {"input_ids": ids})) == n_layers
        merged = wc.merge(converted)
        assert list(merged.state_dict()) == list(network.state_dict())
        assert type(merged.get_submodule("")) is type(network)
