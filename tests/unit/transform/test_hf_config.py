import copy
import pickle

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.transform.hf_config import METHOD, ConfigRecord, LayerRecord

transformers = pytest.importorskip("transformers")
RULE = wc.Rule(wc.dictionaries.DCT(), 0.25, columns=2)


def make_llama(tied=False):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def layers_of(model):
    return model.config.to_dict()["quantization_config"]["layers"]


def test_the_config_says_what_is_predicted_now():
    dense = make_llama()
    model = wc.convert(dense, {"re:.*q_proj": RULE})
    name = "model.layers.0.self_attn.q_proj"
    assert list(layers_of(model)) == [name]
    record = LayerRecord.from_dict(layers_of(model)[name])
    assert (record.rule, record.base, record.twin) == (RULE, None, None)
    assert model.config.to_dict()["quantization_config"]["quant_method"] == METHOD
    assert not hasattr(dense.config, "quantization_config")
    assert len(layers_of(wc.convert(model, {"re:.*k_proj": RULE}))) == 2
    assert not hasattr(wc.merge(model).config, "quantization_config")
    assert len(layers_of(model)) == 1  # merging was of a copy


def test_what_is_made_from_data_is_named_with_its_sizes():
    rule = wc.Rule(wc.dictionaries.RandomGaussian(), 0.25)
    model = wc.convert(make_llama(), {"re:.*q_proj": rule})
    record = LayerRecord.from_dict(layers_of(model)["model.layers.0.self_attn.q_proj"])
    assert record.base is not None
    assert record.base.shapes == {"atoms": (4, 16)}
    assert record.fingerprint is None


def test_copies_and_pickles_speak_of_themselves():
    model = wc.convert(make_llama(), {"re:.*q_proj": RULE})
    twin = copy.deepcopy(model)
    merged = wc.merge(model, inplace=True)
    assert not hasattr(merged.config, "quantization_config")
    assert isinstance(twin.config.quantization_config, ConfigRecord)
    assert len(layers_of(twin)) == 1
    assert copy.deepcopy(twin.config).to_dict() == twin.config.to_dict()
    assert pickle.loads(pickle.dumps(twin)).config.to_dict() == twin.config.to_dict()


def test_tied_weights_are_tied_as_V():
    model = wc.convert(make_llama(tied=True), {"*": RULE})
    assert model.all_tied_weights_keys == {"lm_head.V": "model.embed_tokens.V"}
    model.lm_head.V = nn.Parameter(torch.zeros_like(model.lm_head.V))
    model.tie_weights()
    assert model.lm_head.V is model.model.embed_tokens.V
    model.init_weights()
    merged = wc.merge(model)
    assert merged.all_tied_weights_keys == {"lm_head.weight": "model.embed_tokens.weight"}
    merged.tie_weights()


def test_a_quantisation_of_others_is_left_alone():
    model = make_llama()
    model.config.quantization_config = {"quant_method": "other"}
    assert wc.convert(model, {"re:.*q_proj": RULE}).config.quantization_config == {
        "quant_method": "other"
    }


def test_networks_of_no_transformers_are_left_alone():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.layer = {"a": 1}, nn.Linear(16, 8)

    assert wc.convert(Own(), {"*": RULE}).config == {"a": 1}
