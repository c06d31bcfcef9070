"""Adapters on predicted layers, and the other way round; quantised layers."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import Trainer, TrainingArguments, set_seed

import weightcast as wc
from tests.flows.examples import classifier, digits, texts
from tests.flows.flow import flow
from tests.flows.networks import llama
from weightcast.layers import predicted_layers

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


@flow("LoRA on a predicted network: train, save, load, merge_and_unload", "peft", "transformers")
def adapters_on_predicted(folder: Path) -> None:
    from weightcast.integrations.peft import register

    base = wc.convert(llama(), PLAN)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    model = get_peft_model(base, register(config))
    tokens = texts()[:8]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        model.save_pretrained(folder)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-5, atol=1e-5)


@flow("Llama adapted: Trainer saves, resumes bit-equal, takes the best; PEFT loads the adapter",
      "transformers", "accelerate", "peft")  # fmt: skip
def adapted_by_the_trainer(folder: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in texts()]
    network = llama()
    plan = wc.suggest(network, learned=4_000, purpose="adapt", inputs=[texts()[:8]])

    def trainer(name: str) -> Trainer:
        set_seed(0)
        model = wc.adapt(network, plan, inputs=[texts()[:8]])
        arguments = TrainingArguments(
            folder / name, max_steps=6, save_steps=3, per_device_train_batch_size=4, use_cpu=True,
            report_to="none", disable_tqdm=True, eval_strategy="steps", eval_steps=3,
            load_best_model_at_end=True, learning_rate=1e-2,
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:8])

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    after = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(after[name], value), name
    model, tokens = whole.model.eval(), texts()[:4]
    with torch.no_grad():
        expected = model(tokens).logits
        assert not torch.equal(expected, network.eval()(tokens).logits)
        wc.save(model, folder / "adapter")
        assert torch.equal(wc.load(folder / "adapter", network)(tokens).logits, expected)
        wc.export_peft(model, folder / "lora")
        theirs = PeftModel.from_pretrained(copy.deepcopy(network), folder / "lora").eval()
        torch.testing.assert_close(theirs(tokens).logits, expected, rtol=1e-4, atol=1e-5)


@flow("An adapter that was saved comes back onto the same predicted network",
      "peft", "transformers")  # fmt: skip
def adapters_come_back(folder: Path) -> None:
    from weightcast.integrations.peft import register

    base = wc.convert(llama(), PLAN)
    wc.save(base, folder / "base")
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    model = get_peft_model(base, register(config)).eval()
    model.save_pretrained(folder / "adapter")
    again = PeftModel.from_pretrained(
        wc.load(folder / "base", llama()),
        folder / "adapter",
        config=register(LoraConfig.from_pretrained(folder / "adapter")),
    ).eval()
    with torch.no_grad():
        assert torch.equal(again(texts()[:8]).logits, model(texts()[:8]).logits)


@flow("convert and compress a network with LoRA adapters: the bases are predicted, not lora_A",
      "peft", "transformers")  # fmt: skip
def predicted_under_adapters(folder: Path) -> None:
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    adapted = get_peft_model(llama(), config)
    batches = [{"input_ids": texts()[:8]}]
    for model in (
        wc.compress(adapted, PLAN, inputs=batches, progress=False),
        wc.convert(adapted.requires_grad_(True), PLAN),
    ):
        names = set(predicted_layers(model))
        assert not [name for name in names if "lora_" in name]
        assert len([name for name in names if name.endswith("proj.base_layer")]) == 4
        model(input_ids=texts()[:8], labels=texts()[:8]).loss.backward()
        assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)


@flow(
    "compress a network with int8 weights of torchao",
    "torchao",
    remedy="read the weight back first: layer.weight = nn.Parameter(layer.weight.dequantize())",
)
def compressing_int8(folder: Path) -> None:
    images, _ = digits()
    model = classifier()
    quantize_(model, Int8WeightOnlyConfig(version=2))
    read_back = copy.deepcopy(model)
    for layer in (read_back[1], read_back[3], read_back[5]):
        layer.weight = nn.Parameter(layer.weight.dequantize())
    plan = {"*": wc.Rule(wc.dictionaries.DCT(), 1.0)}
    small = wc.compress(read_back, plan, inputs=[images[:256]], progress=False)
    torch.testing.assert_close(small(images), read_back(images), rtol=1e-3, atol=1e-3)
    wc.compress(model, plan, inputs=[images[:256]], progress=False)
