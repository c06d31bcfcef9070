"""adapt: what is frozen, shared and freed; what is refused; one rate for all; W0 again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers import AdaptedLayer, adapted_layers

WHITENED = wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=3)
RANDOM = wc.Rule(d.RandomGaussian(), n_atoms=2, columns=3)
RELATIVE = wc.Rule(d.RandomGaussian(), n_atoms=2, columns=3, relative=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4)
    )


def rows(n: int = 100) -> Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(1))


def learned(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) / 3)
    return model


def tensors(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "LSTM": (lambda: nn.LSTM(12, 8, num_layers=2, bidirectional=True), (5, 3, 12)),
    "GRU": (lambda: nn.GRU(12, 8), (5, 3, 12)),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0), (5, 3, 12)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2)
        ),
        (5, 4, 7, 7),
    ),
    "bfloat16": (lambda: network().bfloat16(), (100, 12)),
}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_starts_bit_equal_learns_v_alone_and_merges(name, relative):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    x = torch.randn(shape).to(next(model.parameters()).dtype)
    adapted = wc.adapt(model, {"*": RELATIVE if relative else WHITENED}, inputs=x)
    y = tensors(model(x))
    assert torch.equal(tensors(adapted(x)), y)
    assert all(name.endswith("delta.V") for name in learned(adapted))
    tensors(adapted(x)).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters())
    moved(adapted)
    merged = wc.merge(adapted)
    assert [type(m) for m in merged.modules()] == [type(m) for m in model.modules()]
    assert merged.state_dict().keys() == model.state_dict().keys()
    close: dict[str, Any] = (
        {"rtol": 0.05, "atol": 0.3} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    )
    torch.testing.assert_close(tensors(merged(x)), tensors(adapted(x)), **close)
    back = wc.unadapt(adapted)
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


def test_a_merged_adapter_is_exact_in_double_precision():
    model, x = network().double(), rows().double()
    adapted = moved(wc.adapt(model, {"*": WHITENED, "4": None}, inputs=x, free=["bias", "norm"]))
    torch.testing.assert_close(wc.merge(adapted)(x), adapted(x), rtol=1e-13, atol=1e-13)
    assert adapted[0].delta.V.dtype == torch.float64


def test_w0_is_the_models_own_memory_and_the_model_is_left_as_it_was():
    model: Any = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    adapted: Any = wc.adapt(model, {"*": WHITENED}, inputs=rows(), heads=["4"], free=["norm"])
    assert learned(model) == list(before)
    assert adapted[0].frozen.weight.data_ptr() == model[0].weight.data_ptr()
    optimiser = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.1)
    adapted(rows()).square().sum().backward()
    optimiser.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
    free = ["0.delta.V", "1.weight", "1.bias", "3.delta.V", "4.weight", "4.bias"]
    assert learned(adapted) == free


def test_biases_are_freed_wherever_they_are():
    model = nn.Sequential(nn.LSTM(12, 8), nn.Module())
    adapted = wc.adapt(model, {"0": RANDOM}, free=["bias"])
    biases = ["0.module.bias_ih_l0", "0.module.bias_hh_l0"]
    assert set(learned(adapted)) == {"0.ih_l0.delta.V", "0.hh_l0.delta.V", *biases}


def test_a_head_follows_the_rule_of_its_own_name_alone():
    model = nn.ModuleDict({"body": nn.Linear(12, 12), "head": nn.Sequential(nn.Linear(12, 4))})
    adapted = wc.adapt(model, {"*": RANDOM}, heads=["head"])
    assert list(adapted_layers(adapted)) == ["body"]
    with pytest.raises(ValueError, match=r"'head\.0' is a head, or tied to one"):
        wc.adapt(model, {"*": RANDOM, "head.0": RANDOM}, heads=["head"])


def test_layers_of_one_weight_share_v_and_stay_tied_when_they_are_merged():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 12), nn.Linear(12, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))

    model, x = Tied(), torch.arange(10)
    adapted: Any = moved(wc.adapt(model, {"*": RANDOM}))
    assert adapted.head.delta.V is adapted.table.delta.V
    merged = wc.merge(adapted)
    assert merged.head.weight is merged.table.weight
    torch.testing.assert_close(merged(x), adapted(x))
    assert wc.unadapt(adapted).head.weight is not merged.head.weight


def test_a_compressed_network_can_be_adapted_and_is_there_again_afterwards():
    model, x = network(), rows()
    small: Any = wc.compress(model, {"*": wc.Rule(d.PCA(), 0.5)}, inputs=x, progress=False)
    adapted: Any = wc.adapt(small, {"*": WHITENED}, inputs=x)
    assert torch.equal(adapted(x), small(x))
    assert isinstance(adapted[0].frozen, wc.PredictedLinear)
    assert adapted[0].frozen.atoms.base.atoms is small[0].atoms.base.atoms
    torch.testing.assert_close(wc.merge(moved(adapted))(x), adapted(x), rtol=1e-4, atol=1e-5)
    back = wc.unadapt(adapted)
    assert torch.equal(back(x), small(x))
    assert isinstance(back[0], wc.PredictedLinear)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_network_can_be_adapted(bits):
    quantization: Any = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4))
    configs = {8: quantization.Int8WeightOnlyConfig}
    if bits == 4:
        configs[4] = lambda: quantization.IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=quantization.PerGroup(32)
        )
    quantization.quantize_(model, configs[bits]())
    x = torch.randn(50, 128)
    adapted: Any = wc.adapt(model, {"*": wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=4)}, x)
    assert torch.equal(adapted(x), model(x))
    assert type(adapted[0].frozen.weight) is type(model[0].weight)
    adapted(x).square().sum().backward()
    assert adapted[0].delta.V.grad.any()
    merged = wc.merge(moved(adapted))
    assert type(merged[0].weight) is nn.Parameter
    torch.testing.assert_close(merged(x), adapted(x), rtol=1e-3, atol=1e-3)


def test_layers_of_one_input_have_one_base(tmp_path):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.q(x) * self.k(x))

    adapted: Any = wc.adapt(Attention(), {"*": WHITENED}, inputs=rows())
    wc.save(adapted, tmp_path / "adapter")
    loaded: Any = wc.load(tmp_path / "adapter", wc.unadapt(adapted))
    for model in (adapted, loaded):
        assert model.q.delta.atoms is model.k.delta.atoms
        assert model.q.delta.V is not model.k.delta.V
        assert model.out.delta.atoms.base is not model.q.delta.atoms.base
        places = [t.data_ptr() for t in model.state_dict().values()]
        assert len(places) == len(set(places))  # many a tool refuses a tensor of two names
    assert torch.equal(loaded(rows()), adapted(rows()))


DICTIONARIES = {
    "whitened": d.PCA(whiten=True),
    "raw": d.PCA(),
    "random": d.RandomGaussian(),
    "orthonormal": d.RandomGaussian(mixing="orthonormal"),
    "cosines": d.DCT(),
}


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize(("columns", "n_atoms"), [(1, 4), (16, 4), (1, 16)])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_one_rate_moves_outputs_alike(name, columns, n_atoms, width):
    """By rates of V's own an output moves by as much, whatever U and the inputs.

    Random signs are of atoms that do not move together: there it is rate * 4 / sqrt(n_atoms).
    """
    torch.manual_seed(0)
    mixed = torch.linspace(3, 0.1, width).diag() @ torch.randn(width, width) / width**0.5
    x = 20 * torch.randn(2000, width) @ mixed + 5
    model = nn.Sequential(nn.Linear(width, 64))
    rule = wc.Rule(DICTIONARIES[name], n_atoms=n_atoms, columns=columns)
    adapted = wc.adapt(model, {"*": rule}, inputs=x)
    (group,) = wc.parameter_groups(adapted, 0.01)
    before = adapted(x).detach()
    with torch.no_grad():
        for p in group["params"]:
            p.add_(group["lr"] * torch.randn(p.shape).sign())
    moved_by = (adapted(x).detach() - before).std(dim=0).square().mean().sqrt()
    assert float(moved_by) == pytest.approx(0.01 * 4 / n_atoms**0.5, rel=0.15)


@pytest.mark.parametrize("n_atoms", [1, 4, 16])
def test_a_step_of_adam_moves_an_output_alike_whatever_the_number_of_atoms(n_atoms):
    """Unit i is to grow on example i: there all atoms move to one end, 4 rate mean(abs(x U))."""
    torch.manual_seed(0)
    x = torch.randn(500, 64)
    rule = wc.Rule(d.PCA(whiten=True), n_atoms=n_atoms, columns=4)
    adapted = wc.adapt(nn.Sequential(nn.Linear(64, 500)), {"*": rule}, inputs=x)
    before = adapted(x).diagonal()
    (-before.sum()).backward()
    torch.optim.Adam(wc.parameter_groups(adapted, 0.005)).step()
    moved_by = (adapted(x).diagonal() - before).detach().mean()
    assert float(moved_by) == pytest.approx(4 * 0.005 * (2 / torch.pi) ** 0.5, rel=0.05)


@pytest.mark.parametrize("n_atoms", [1, 4, 16])
@pytest.mark.parametrize("name", ["random", "orthonormal", "cosines"])
def test_one_rate_moves_relative_weights_alike(name, n_atoms):
    """By as large a share as others move outputs of variance 1."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(256, 64))
    rule = wc.Rule(DICTIONARIES[name], n_atoms=n_atoms, columns=4, relative=True)
    adapted: Any = wc.adapt(model, {"*": rule})
    (group,) = wc.parameter_groups(adapted, 0.01)
    with torch.no_grad():
        for p in group["params"]:
            p.add_(group["lr"] * torch.randn(p.shape).sign())
    share = (adapted[0].weight / model[0].weight - 1).detach()
    moved_by = float(share.square().mean().sqrt())
    assert moved_by == pytest.approx(0.01 * 4 / n_atoms**0.5, rel=0.15)


def test_what_is_relative_is_saved_averaged_and_counted(tmp_path):
    model = network()
    ones = [moved(wc.adapt(model, {"*": RELATIVE, "4": None})) for _ in range(2)]
    with torch.no_grad():
        ones[1][0].delta.V.neg_()
    for number, one in enumerate(ones):
        wc.save(one, tmp_path / str(number))
    loaded: Any = wc.load(tmp_path / "0", model)
    assert torch.equal(loaded(rows()), ones[0](rows()))
    assert loaded[0].delta.rule == RELATIVE
    mean: Any = wc.average([tmp_path / "0", tmp_path / "1"])
    loaded.load_state_dict(mean, strict=False)
    torch.testing.assert_close(loaded[0].weight, model[0].weight)
    torch.testing.assert_close(loaded[3].weight, (ones[0][3].weight + ones[1][3].weight) / 2)
    added, _ = (row for row in wc.ledger(loaded, batch=100).rows if row.layer.endswith("delta"))
    assert added.multiply_adds == -(-(2 * 12 * 16 + 12 * 16) // 100)  # W, once for all rows


def test_whitened_directions_need_no_rate_of_their_own():
    adapted: Any = wc.adapt(network(), {"*": WHITENED}, inputs=rows())
    assert adapted[0].gain == pytest.approx(1, rel=0.02)


def test_counts_are_of_what_learns():
    adapted = wc.adapt(network(), {"*": WHITENED}, inputs=rows(), heads=["4"])
    total = wc.ledger(adapted).total
    assert total.learned == 2 * 16 + 2 * 16 + 68
    assert total.dense == sum(p.numel() for p in network().parameters())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4, mode="max")
        self.table, self.linear = nn.Embedding(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a plan that frees nothing": (network, {"plan": {"*": None}}, "the plan adds to no layer"),
    "heads alone": (
        network, {"plan": {"4": None, "*": RANDOM}, "heads": ["0", "3"]}, "adds to no layer",
    ),
    "no such layer": (network, {"plan": {"7": RANDOM}}, "rule '7' matches no layer"),
    "no such head": (network, {"plan": {"0": RANDOM}, "heads": ["had"]}, "no module 'had' can be"),
    "another word": (network, {"plan": {"0": RANDOM}, "free": ["gain"]}, "free is 'gain'"),
    "too many atoms": (
        network, {"plan": {"0": wc.Rule(d.DCT(), n_atoms=13)}}, "13, and the layer has 12",
    ),
    "no inputs": (network, {"plan": {"0": WHITENED}}, "layer '0': PCA is made from data"),
    "constant inputs": (
        network, {"plan": {"0": WHITENED}, "inputs": torch.ones(9, 12)}, "cannot whiten 12 of 12",
    ),
    "NaN statistics": (
        network, {"plan": {"0": WHITENED}, "inputs": torch.full((9, 12), torch.nan)}, "NaN",
    ),
    "a table's inputs": (Twice, {"plan": {"table": WHITENED}, "inputs": rows()}, "selects rows"),
    "relative to one that is predicted": (
        lambda: wc.convert(network(), {"0": wc.Rule(d.DCT(), 0.5)}), {"plan": {"0": RELATIVE}},
        "layer '0': the layer is predicted or quantised, and a relative rule needs the entries",
    ),
    "relative to all that are predicted": (
        lambda: wc.convert(network(), {"*": wc.Rule(d.DCT(), 0.5)}), {"plan": {"*": RELATIVE}},
        "is predicted or quantised",
    ),
    "maxima": (Twice, {"plan": {"bag": RANDOM}}, "mode='max'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_one_error_and_changes_nothing(what, refuses):
    make, arguments, message = BAD[what]
    model = make()
    with refuses(model, message):
        wc.adapt(model, **arguments)


def test_a_weight_of_another_shape_or_dtype_is_refused(refuses):
    model = network()
    model[0].bias = nn.Parameter(torch.zeros(3))
    with refuses(model, "layer '0'", r"its bias is \(3,\)"):
        wc.adapt(model, {"0": RANDOM})
    model = network()
    model[0].weight = nn.Parameter(torch.zeros(16, 12, dtype=torch.int8), requires_grad=False)
    with refuses(model, "layer '0'", "torch.int8"):
        wc.adapt(model, {"0": RANDOM})


def test_what_is_adapted_is_not_adapted_or_predicted_again(refuses):
    adapted = wc.adapt(network(), {"0": RANDOM})
    with refuses(adapted, "layer '0' is adapted already", "unadapt"):
        wc.adapt(adapted, {"3": RANDOM})
    with refuses(adapted, "is adapted already"):
        wc.convert(adapted, {"0": wc.Rule(d.DCT(), 0.5)})
    unfrozen = copy.deepcopy(adapted).requires_grad_(True)
    assert "is adapted already" in str(wc.Plan({"3": wc.Rule(d.DCT(), 0.5)}).explain(unfrozen))


def test_one_layer_by_itself_can_be_adapted():
    layer = nn.Linear(12, 6)
    adapted = wc.adapt(layer, {"*": RANDOM})
    assert isinstance(adapted, AdaptedLayer)
    assert type(wc.merge(adapted)) is nn.Linear
    assert torch.equal(wc.unadapt(adapted).weight, layer.weight)


def test_keys_of_one_encoders_output_have_statistics_in_every_block():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 90, "d_model": 32, "d_kv": 16, "d_ff": 64}
    config = transformers.T5Config(num_layers=2, num_heads=2, **sizes)
    model = transformers.T5Model(config).eval()
    tokens = torch.arange(33).view(3, 11)
    batch = {"input_ids": tokens, "decoder_input_ids": tokens}
    adapted = wc.adapt(model, {"re:decoder.*(Self|EncDec)Attention.*": WHITENED}, inputs=[batch])
    layers = adapted_layers(adapted).items()
    keys = [
        layer.delta.atoms.dictionaries() for name, layer in layers if "EncDecAttention.k" in name
    ]
    torch.testing.assert_close(*keys)
    with torch.no_grad():  # a bias that learns is another kernel's
        assert torch.equal(adapted(**batch)[0], model(**batch)[0])


def test_transformers_config_says_nothing_of_adapters(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64}
    config = transformers.LlamaConfig(
        num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True, **sizes
    )
    model = transformers.LlamaForCausalLM(config)
    batch = {"input_ids": torch.arange(60).view(6, 10)}
    rules = {"re:.*proj": WHITENED, "re:lm_head|model.embed_tokens": RANDOM}
    adapted = moved(wc.adapt(model, rules, inputs=[batch]))
    assert getattr(adapted.config, "quantization_config", None) is None
    adapted.save_pretrained(tmp_path)  # as the Trainer does: V is tied where W0 is
    from safetensors.torch import load_file

    saved, again = load_file(tmp_path / "model.safetensors"), copy.deepcopy(adapted)
    moved(again)
    again.load_state_dict(saved, strict=False)
    tokens = torch.arange(10).view(2, 5)
    assert torch.equal(again(tokens)[0], adapted(tokens)[0])
