"""Networks of transformers, trained by its Trainer: saved, resumed, and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import weightcast as wc
from tests.flows.examples import digits, texts
from tests.flows.flow import flow
from tests.flows.networks import bert, gpt2, llama, t5, vit

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


def save_resume_reload(make: Callable, auto: type, rows: list[dict], folder: Path) -> None:
    """Train for 6 steps, and again from the checkpoint of step 3; load the last one."""
    import weightcast.integrations.huggingface

    def trainer(seed: int, name: str) -> Trainer:
        set_seed(seed)
        model = wc.convert(make(), PLAN)
        arguments = TrainingArguments(
            folder / name, max_steps=6, save_steps=3, per_device_train_batch_size=4, use_cpu=True,
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=rows)

    whole = trainer(0, "whole")
    whole.train()
    resumed = trainer(1, "resumed")
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    after = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(after[name], value), name

    loaded = auto.from_pretrained(folder / "whole" / "checkpoint-6")
    assert isinstance(loaded, PreTrainedModel)
    batch = default_data_collator(rows[:4])
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, whole.model.eval()(**batch).logits)
    assert wc.ledger(loaded).total == wc.ledger(whole.model).total


@flow("Llama: Trainer saves, resumes bit-equal, from_pretrained", "transformers", "accelerate")
def llama_trainer(folder: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in texts()]
    save_resume_reload(llama, AutoModelForCausalLM, rows, folder)


@flow("GPT-2: Trainer saves, resumes bit-equal, from_pretrained", "transformers", "accelerate")
def gpt2_trainer(folder: Path) -> None:
    rows = [{"input_ids": row, "labels": row} for row in texts()]
    save_resume_reload(gpt2, AutoModelForCausalLM, rows, folder)


@flow("BERT: Trainer saves, resumes bit-equal, from_pretrained", "transformers", "accelerate")
def bert_trainer(folder: Path) -> None:
    prose = [{"input_ids": row, "labels": 0} for row in texts("docs/architecture.md")]
    settings = [{"input_ids": row, "labels": 1} for row in texts("pyproject.toml")]
    save_resume_reload(bert, AutoModelForSequenceClassification, prose + settings, folder)


@flow("T5: Trainer saves, resumes bit-equal, from_pretrained", "transformers", "accelerate")
def t5_trainer(folder: Path) -> None:
    rows = [{"input_ids": row[:16], "labels": row[16:]} for row in texts()]
    save_resume_reload(t5, AutoModelForSeq2SeqLM, rows, folder)


@flow("ViT: Trainer saves, resumes bit-equal, from_pretrained", "transformers", "accelerate")
def vit_trainer(folder: Path) -> None:
    images, labels = digits()
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(images[:100], labels, strict=False)
    ]
    save_resume_reload(vit, AutoModelForImageClassification, rows, folder)


@flow("Gradient checkpointing: the gradients are those without", "transformers")
def gradient_checkpointing(folder: Path) -> None:
    model = wc.convert(llama(), PLAN).train()
    batch = {"input_ids": texts()[:4], "labels": texts()[:4]}
    model(**batch).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    for use_reentrant in (False, True):
        model.zero_grad()
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        model(**batch).loss.backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, plain[name])


@flow("bfloat16, and autocast: Trainer trains and saves, from_pretrained", "transformers")
def bfloat16(folder: Path) -> None:
    import weightcast.integrations.huggingface

    rows = [{"input_ids": row, "labels": row} for row in texts()]
    batch = default_data_collator(rows[:4])
    for dtype, autocast in ((torch.bfloat16, False), (torch.float32, True)):
        dense = AutoModelForCausalLM.from_config(llama().config, dtype=dtype)
        model = wc.convert(dense, PLAN)
        arguments = TrainingArguments(
            folder, max_steps=3, bf16=autocast, use_cpu=True, report_to="none", disable_tqdm=True
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model(folder / "last")
        loaded = AutoModelForCausalLM.from_pretrained(folder / "last")
        assert loaded.dtype == dtype
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
        with torch.no_grad():
            assert torch.equal(loaded(**batch).logits, model(**batch).logits)
