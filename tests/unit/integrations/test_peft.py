"""LoRA on predicted layers: trained, saved, loaded and merged by PEFT itself."""

from __future__ import annotations

import copy

import pytest
import torch

import weightcast as wc

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
integration = pytest.importorskip("weightcast.integrations.peft")
register = integration.register

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to:UserWarning"),
]

TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
RULES = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return wc.convert(transformers.LlamaForCausalLM(config), RULES).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return wc.convert(transformers.GPT2LMHeadModel(config), RULES).eval()


def adapted(model, targets, **options):
    """The model with an adapter that has learned something."""
    config = peft.LoraConfig(r=4, target_modules=targets, **options)
    model = peft.get_peft_model(model, register(config)).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all("lora_" in n for n, p in model.named_parameters() if p.requires_grad)
    optimiser = torch.optim.Adam(learned, 1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
        optimiser.step()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


CASES = [
    (llama, ["q_proj", "down_proj"], {}),
    (gpt2, ["c_attn", "c_proj"], {}),
    (llama, ["embed_tokens", "v_proj"], {}),
    (llama, ["q_proj"], {"use_dora": True}),
    (gpt2, ["c_attn"], {"use_dora": True, "lora_bias": False}),
    (gpt2, ["c_fc"], {"lora_bias": True, "use_rslora": True}),
]


@pytest.mark.parametrize(("make", "targets", "options"), CASES)
def test_an_adapter_learns_and_merges_to_a_dense_layer(make, targets, options):
    before = logits(make())
    model = adapted(make(), targets, **options)
    after = logits(model)
    assert (after - before).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.allclose(logits(model), before, atol=1e-5)
    dense = model.merge_and_unload(safe_merge=True)
    assert torch.allclose(logits(dense), after, atol=1e-5)
    for name, module in dense.named_modules():
        if name.rpartition(".")[2] in targets:
            assert not isinstance(module, wc.PredictedLayer)
            assert module.weight.is_leaf
    left = [n for n, m in dense.named_modules() if isinstance(m, wc.PredictedLayer)]
    assert left, "layers without an adapter stay predicted"
    assert not any(n.rpartition(".")[2] in targets for n in left)


def test_an_adapter_is_saved_loaded_and_taken_off(tmp_path):
    model = adapted(llama(), ["q_proj", "embed_tokens"])
    after = logits(model)
    model.save_pretrained(tmp_path)
    config = register(peft.LoraConfig.from_pretrained(tmp_path))
    again = peft.PeftModel.from_pretrained(llama(), tmp_path, config=config).eval()
    assert torch.equal(logits(again), after)
    plain = again.unload()
    assert torch.equal(logits(plain), logits(llama()))
    assert isinstance(plain.model.layers[0].self_attn.q_proj, wc.PredictedLinear)


def test_merging_in_place_is_refused_until_the_model_is_dense():
    model = adapted(llama(), ["q_proj"])
    after = logits(model)
    with pytest.raises(ValueError, match=r"'default' cannot be merged .* merge_and_unload\(\)"):
        model.merge_adapter()
    assert torch.equal(logits(model), after)
    dense = wc.merge(model)
    dense.merge_adapter()
    assert torch.allclose(logits(dense), after, atol=1e-5)
    dense.unmerge_adapter()
    assert torch.allclose(logits(dense), after, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_initialisation_that_changes_the_weight_is_refused(start):
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=start)
    with pytest.raises(ValueError, match=f"init_lora_weights='{start}' changes the weight"):
        peft.get_peft_model(llama(), register(config))


def test_without_registration_peft_refuses_as_before():
    with pytest.raises(ValueError, match=r"(?s)Target module PredictedLinear.* is not supported"):
        peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"]))


def test_two_adapters_on_one_layer_are_merged_together():
    model = adapted(llama(), ["q_proj"])
    second = copy.deepcopy(model.peft_config["default"])
    model.add_adapter("second", register(second))
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "second" in name:
                p.add_(0.05)
    after = logits(model)
    assert torch.allclose(logits(model.merge_and_unload()), after, atol=1e-5)
