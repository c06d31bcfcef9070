import copy
import json

import pytest
import torch

import weightcast as wc
from weightcast.dictionaries.constants import named_constants

transformers = pytest.importorskip("transformers")
huggingface = pytest.importorskip("weightcast.integrations.huggingface")
D = wc.dictionaries


def make_llama(tied=False, layers=1):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def tokens():
    return torch.arange(10).view(2, 5)


def convert(model, dictionary, **options):
    rule = wc.Rule(dictionary, 0.25, columns=2, **options)
    inputs = [{"input_ids": tokens()}] if dictionary.needs else None
    return wc.convert(model, {"*": rule}, inputs=inputs).eval()


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def logits(model):
    model = copy.deepcopy(model)  # products of tensors as they lie in a file differ in the last bit
    with torch.no_grad():
        return model(input_ids=tokens()).logits


DICTIONARIES = [
    D.SparseAtoms(),
    D.DCT(), D.Fourier(), D.Covariance(), D.RandomGaussian(), D.RandomConnections(), D.LowRank(),
    D.PCA(),
]  # fmt: skip


@pytest.mark.parametrize("dictionary", DICTIONARIES, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("tied", [False, True])
def test_it_comes_back_as_it_was(dictionary, tied, tmp_path):
    model = convert(make_llama(tied), dictionary)
    load = transformers.AutoModelForCausalLM.from_pretrained
    again, info = load(saved(model, tmp_path), output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(again), logits(model))
    heads = [m for m in (again.lm_head, again.model.embed_tokens) if hasattr(m, "V")]
    assert len({id(head.V) for head in heads}) == (1 if tied and heads else len(heads))
    assert list(again.state_dict()) == list(model.state_dict())
    configs = [m.config.to_dict()["quantization_config"] for m in (again, model)]
    assert configs[0] == configs[1]
    assert torch.equal(logits(load(saved(again, tmp_path / "again"))), logits(model))


def test_a_kernel_on_a_grid_in_half_precision(tmp_path):
    kernel = D.Kernel(wc.kernels.SquaredExponential(length_scale=1.0))
    rule = wc.Rule(kernel, 0.25, columns=2, grid=(4, 4))
    model = wc.convert(make_llama(), {"re:.*(q|k|v)_proj": rule}).bfloat16().eval()
    again = transformers.LlamaForCausalLM.from_pretrained(saved(model, tmp_path))
    assert again.dtype == torch.bfloat16
    # Not the logits: bfloat16() casts the rotary frequencies too, which from_pretrained does not.
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    constants = [dict(named_constants(one)).values() for one in (again, model)]
    assert all(map(torch.equal, *constants))
    whole = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(whole), logits(model).float(), rtol=0.05, atol=0.05)


def test_a_network_without_the_head_takes_what_it_has(tmp_path):
    model = convert(make_llama(), D.DCT())
    body = transformers.AutoModel.from_pretrained(saved(model, tmp_path))
    expected = model.model(input_ids=tokens()).last_hidden_state
    assert torch.equal(body(input_ids=tokens()).last_hidden_state, expected)


def test_what_is_loaded_is_trained_and_merged_as_what_was_converted(tmp_path):
    again = transformers.LlamaForCausalLM.from_pretrained(
        saved(convert(make_llama(), D.DCT()), tmp_path)
    )
    again(input_ids=tokens(), labels=tokens()).loss.backward()
    assert again.lm_head.V.grad is not None
    assert not getattr(again, "is_quantized", False)
    torch.testing.assert_close(logits(wc.merge(again)), logits(again))
    assert again.half().dtype == torch.float16  # quantised networks refuse this


def test_layers_of_one_rule_share_their_base_again(tmp_path):
    model = convert(make_llama(layers=2), D.DCT())
    again = transformers.LlamaForCausalLM.from_pretrained(saved(model, tmp_path))
    first, second = (layer.self_attn.q_proj.atoms.base for layer in again.model.layers)
    assert first is second


def change(folder, edit):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config["quantization_config"])
    path.write_text(json.dumps(config))


def newer(found):
    found["schema"] = 2


def other_rule(found):
    for layer in found["layers"].values():
        layer["rule"]["dictionary"]["kind"] = "Fourier"


def unknown_field(found):
    next(iter(found["layers"].values()))["rule"]["colour"] = "red"


def other_names(found):
    found["layers"] = {f"other.{name}": layer for name, layer in found["layers"].items()}


BAD = {
    "newer": (newer, "schema 2"),
    "another rule": (other_rule, "fingerprint"),
    "unknown field": (unknown_field, "colour"),
    "other names": (other_names, "has none of them"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_by_name(name, tmp_path):
    edit, words = BAD[name]
    change(saved(convert(make_llama(), D.DCT()), tmp_path), edit)
    with pytest.raises(wc.FormatError, match=words):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)


def test_no_memory_is_taken_because_a_config_says_so(tmp_path):
    def enlarge(found):
        for layer in found["layers"].values():
            layer["base"]["factors"] = [[16, 10**12]]

    change(saved(convert(make_llama(), D.RandomGaussian()), tmp_path), enlarge)
    with pytest.raises(wc.FormatError, match="its base is"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)
