"""PEFT loads what we write, with our outputs; we load what PEFT writes, with its outputs."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers import adapted_layers

transformers: Any = pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")

WHITENED = wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=8)
RANDOM = wc.Rule(d.RandomGaussian(), n_atoms=3, columns=4)
TOKENS = torch.arange(33).view(3, 11)
TEXT = {"input_ids": TOKENS}
BOTH = {**TEXT, "decoder_input_ids": TOKENS}
IMAGES = {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
SMALL |= {"intermediate_size": 64}

NETWORKS: dict[str, tuple[Any, dict[str, wc.Rule], dict[str, Tensor], list[str]]] = {
    "BERT": (
        lambda: transformers.BertModel(transformers.BertConfig(vocab_size=90, **SMALL)),
        {"re:encoder.*": WHITENED}, TEXT, ["pooler"],
    ),
    "Llama": (
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(vocab_size=90, num_key_value_heads=1, **SMALL)
        ),
        {"re:model.layers.*": WHITENED, "model.embed_tokens": RANDOM}, TEXT, [],
    ),
    "GPT-2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=2, n_positions=20)
        ),
        {"re:.*h.*": WHITENED}, TEXT, [],
    ),
    "ViT": (
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=16, patch_size=4, **SMALL)
        ),
        {"*": WHITENED}, IMAGES, ["classifier"],
    ),
    "T5": (
        lambda: transformers.T5Model(
            transformers.T5Config(
                vocab_size=90, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
            )
        ),
        {"re:.*(Self|EncDec|Dense).*": WHITENED, "shared": RANDOM}, BOTH, [],
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """PEFT warns of tied embeddings, Conv1D and groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained(model: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@torch.no_grad()
def output(model: nn.Module, inputs: Any) -> Tensor:
    found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return found if isinstance(found, Tensor) else found[0]


def apart(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max() / two.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_peft_loads_what_is_relative_as_hira(name, tmp_path):
    torch.manual_seed(0)
    make, plan, inputs, heads = NETWORKS[name]
    model = make().eval()
    plan = {key: replace(rule, relative=True) for key, rule in plan.items()}
    adapted = trained(wc.adapt(model, plan, inputs=[inputs], heads=heads))
    wc.export_peft(adapted, tmp_path / "hira")
    y = output(adapted, inputs)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "hira")
    assert type(theirs.peft_config["default"]) is peft.HiraConfig
    assert apart(output(model, inputs), y) > 0.01
    assert apart(output(theirs, inputs), y) < 1e-5
    ours = wc.import_peft(tmp_path / "hira", model)
    assert all(layer.delta.rule.relative for layer in adapted_layers(ours).values())
    assert apart(output(ours, inputs), y) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_peft_loads_what_was_adapted_and_so_do_we(name, tmp_path):
    torch.manual_seed(0)
    make, plan, inputs, heads = NETWORKS[name]
    model = make().eval()
    adapted = trained(wc.adapt(model, plan, inputs=[inputs], heads=heads))
    wc.export_peft(adapted, tmp_path / "lora")
    y = output(adapted, inputs)
    assert apart(output(model, inputs), y) > 0.1
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora")
    assert apart(output(theirs, inputs), y) < 1e-5
    ours = wc.import_peft(tmp_path / "lora", model)
    assert apart(output(ours, inputs), y) < 1e-5
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"]
    assert config["bias"] == "none"


def test_convolutions_and_names_that_end_alike_are_loaded_too(tmp_path):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), nn.ReLU())
    model: Any = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), inner, nn.Conv2d(12, 3, 3))
    x = torch.randn(5, 4, 9, 9)
    rule = wc.Rule(d.PCA(whiten=True), n_atoms=2, columns=3)
    adapted = trained(wc.adapt(model, {"0": rule, "1.0": rule, "2": rule}, inputs=x))
    wc.export_peft(adapted, tmp_path / "lora")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora")
    assert apart(output(theirs, x), output(adapted, x)) < 1e-5
    model[1][0] = nn.Conv2d(8, 12, 1)  # "0" and "1.0" would both match "0"
    adapted = trained(wc.adapt(model, {"0": rule, "2": rule}, inputs=x))
    wc.export_peft(adapted, tmp_path / "lora")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora")
    assert not hasattr(theirs.base_model.model[1][0], "lora_A")
    assert apart(output(theirs, x), output(adapted, x)) < 1e-5


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "patterns": {"alpha_pattern": {"query": 3}, "rank_pattern": {"key": 2}},
    "more than inputs": {"r": 40},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_peft_trained_becomes_v_of_its_own_u(name, tmp_path):
    torch.manual_seed(0)
    model = NETWORKS["BERT"][0]().eval()
    targets = ["query", "key", "word_embeddings"]
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 7, "target_modules": targets}, **{
        key: value for key, value in VARIANTS[name].items() if key != "r"
    })  # fmt: skip
    config.r = VARIANTS[name].get("r", 4)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    trained(theirs)
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = wc.import_peft(tmp_path, model)
    assert len(adapted_layers(ours)) == 5
    assert apart(output(model, TEXT), output(theirs, TEXT)) > 0.01
    assert apart(output(ours, TEXT), output(theirs, TEXT)) < 1e-5


def test_what_peft_trained_as_hira_is_read_too(tmp_path):
    torch.manual_seed(0)
    model = NETWORKS["BERT"][0]().eval()
    targets = ["query", "key", "word_embeddings"]
    config = peft.HiraConfig(r=4, target_modules=targets, rank_pattern={"key": 2})
    theirs = trained(peft.get_peft_model(copy.deepcopy(model), config))
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = wc.import_peft(tmp_path, model)
    assert len(adapted_layers(ours)) == 5
    assert apart(output(model, TEXT), output(theirs, TEXT)) > 0.01
    assert apart(output(ours, TEXT), output(theirs, TEXT)) < 1e-5


def test_zeros_that_fill_up_a_rank_are_left_out(tmp_path):
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 12))
    rules = {"0": wc.Rule(d.DCT(), n_atoms=2, columns=6), "1": wc.Rule(d.DCT(), n_atoms=3)}
    adapted = trained(wc.adapt(model, rules))
    wc.export_peft(adapted, tmp_path / "lora")
    ours: Any = wc.import_peft(tmp_path / "lora", model)
    assert [layer.delta.atoms.n_atoms for layer in ours if hasattr(layer, "delta")] == [12, 3]
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == 12 * 70 + 3 * 42


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.bilinear = nn.LSTM(12, 8), nn.Bilinear(3, 4, 5)
        self.spread = nn.Conv1d(4, 6, 3, dilation=2)
        self.up, self.linear = nn.ConvTranspose1d(4, 6, 3), nn.Linear(12, 8)
        self.attention = nn.MultiheadAttention(12, 2)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("lstm.ih_l0", "LSTM"),
        ("bilinear", "Bilinear"),
        ("spread", "Conv1d"),
        ("up", "ConvTranspose1d"),
        ("attention.out_proj", "MultiheadAttention"),
    ],
)
def test_a_layer_that_peft_cannot_hold_is_refused_by_name(layer, kind, tmp_path):
    adapted = wc.adapt(Kinds(), {layer: wc.Rule(d.DCT(), n_atoms=2, grid=12)
                                 if layer == "bilinear" else RANDOM})  # fmt: skip
    with pytest.raises(ValueError, match=rf"layer '{layer}' \({kind}\) cannot be held by PEFT"):
        wc.export_peft(adapted, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_what_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(ValueError, match="the model holds nothing adapted"):
        wc.export_peft(Kinds(), tmp_path / "lora")
    adapted = wc.adapt(Kinds(), {"linear": RANDOM}, free=["bias"])
    with pytest.raises(ValueError, match="'bias' of layer 'linear' was freed, and PEFT cannot"):
        wc.export_peft(adapted, tmp_path / "lora")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and holds no adapter"):
        wc.export_peft(wc.adapt(Kinds(), {"linear": RANDOM}), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_what_is_relative_is_written_alone_and_without_groups(tmp_path):
    relative = replace(RANDOM, relative=True)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1))
    with pytest.raises(ValueError, match="PEFT holds one kind in a folder"):
        wc.export_peft(wc.adapt(model, {"1": relative, "2": RANDOM}), tmp_path / "hira")
    with pytest.raises(ValueError, match=r"layer '0' \(Conv2d\) cannot be held by PEFT's HiRA"):
        wc.export_peft(wc.adapt(model, {"*": relative}), tmp_path / "hira")
    adapted = trained(wc.adapt(model, {"1": relative, "2": relative}))
    wc.export_peft(adapted, tmp_path / "hira")
    x = torch.randn(5, 4, 9, 9)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "hira")
    assert apart(output(theirs, x), output(adapted, x)) < 1e-5
    ours = wc.import_peft(tmp_path / "hira", model)
    assert apart(output(ours, x), output(adapted, x)) < 1e-5


def test_a_rank_above_a_servers_limit_is_told(tmp_path):
    adapted = wc.adapt(Kinds(), {"linear": wc.Rule(d.RandomGaussian(), n_atoms=2, columns=5)})
    with pytest.warns(UserWarning, match="the adapter's rank is 10, above 8: servers may refuse"):
        wc.export_peft(adapted, tmp_path / "lora", max_rank=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "holds 'IA3', and only LORA and HIRA are read"),
        ({"use_dora": True}, "has use_dora, which adds something else than B A"),
    ],
)
def test_what_is_no_lora_is_not_read(change, message, tmp_path):
    model = Kinds()
    wc.export_peft(wc.adapt(model, {"linear": RANDOM}), tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(wc.FormatError, match=message):
        wc.import_peft(tmp_path / "lora", model)


def test_an_adapter_of_another_network_is_not_read(tmp_path, refuses):
    wc.export_peft(wc.adapt(Kinds(), {"linear": RANDOM}), tmp_path / "lora")
    other = Kinds()
    other.linear = nn.Linear(13, 8)
    with refuses(other, r"layer 'linear' has 13 inputs and 8 units, its A is \(12, 12\)"):
        wc.import_peft(tmp_path / "lora", other)
    with refuses(nn.Sequential(nn.Linear(2, 2)), "no layer 'linear'"):
        wc.import_peft(tmp_path / "lora", nn.Sequential(nn.Linear(2, 2)))
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(wc.FormatError, match=r"is damaged: adapter_model\.safetensors"):
        wc.import_peft(tmp_path / "lora", Kinds())
    with pytest.raises(wc.FormatError, match=r"adapter_config\.json is missing"):
        wc.import_peft(tmp_path, Kinds())
