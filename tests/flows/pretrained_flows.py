"""save_pretrained, from_pretrained, generation and pipelines of transformers; the Hub's mixin."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import weightcast as wc
from tests.flows.examples import digits, texts
from tests.flows.flow import flow
from tests.flows.networks import gpt2, llama, vit

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


@flow("Bases drawn at random or made of data: save_pretrained, from_pretrained", "transformers")
def drawn_bases(folder: Path) -> None:
    import weightcast.integrations.huggingface

    tokens = texts()[:8]
    plan = {
        r"re:.*\.q_proj": wc.Rule(wc.dictionaries.RandomGaussian(), 0.25),
        r"re:.*\.up_proj": wc.Rule(wc.dictionaries.Covariance(), 0.25),
        r"re:.*\.down_proj": wc.Rule(wc.dictionaries.Kernel(), 0.25, columns=4, grid=(8, 8)),
        r"re:.*\.o_proj": wc.Rule(wc.dictionaries.RandomConnections(), 0.25, columns=4),
    }
    model = wc.convert(llama(), plan, inputs={"input_ids": tokens}).eval()
    model.save_pretrained(folder)
    torch.manual_seed(1)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@flow("A trained network compressed to a quarter: save_pretrained, from_pretrained", "transformers")
def compressed(folder: Path) -> None:
    import weightcast.integrations.huggingface

    images, labels = digits()
    trained = vit()
    optimiser = torch.optim.AdamW(trained.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        trained(images[:256], labels=labels[:256]).loss.backward()
        optimiser.step()
    batches = images[:256].split(64)
    plan = wc.suggest(trained, budget=0.25, inputs=batches, progress=False)
    small = wc.compress(trained, plan, inputs=batches, progress=False).eval()
    small.save_pretrained(folder)
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, small(images).logits)


@flow("Tied embeddings: the head of GPT-2 is tied when it comes back", "transformers")
def tied(folder: Path) -> None:
    import weightcast.integrations.huggingface

    model = wc.convert(gpt2(), PLAN).eval()
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())
    tokens = texts()[:4]
    loaded(tokens, labels=tokens).loss.backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    head, embedding = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert torch.equal(head.weight, embedding.weight)
    assert not torch.equal(head.weight, model.get_input_embeddings().weight)


@flow("generate with a cache gives what it gives without, greedy and by beams", "transformers")
def generate(folder: Path) -> None:
    model = wc.convert(llama(), PLAN).eval()
    prompt = texts()[:2, :8]
    for options in ({}, {"num_beams": 3}):
        with_cache, without = (
            model.generate(
                prompt, max_new_tokens=12, do_sample=False, use_cache=use_cache, **options
            )
            for use_cache in (True, False)
        )
        assert torch.equal(with_cache, without)


@flow("from_pretrained with a device_map and an offload_folder", "transformers", "accelerate")
def big_model(folder: Path) -> None:
    import weightcast.integrations.huggingface

    model = wc.convert(llama(), PLAN).eval()
    model.save_pretrained(folder / "saved")
    device_map = {
        "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
        "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk",
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(
        folder / "saved", device_map=device_map, offload_folder=folder / "offloaded"
    )
    assert any(p.is_meta for p in loaded.parameters())
    tokens = texts()[:4]
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@flow("pipeline('image-classification') on a saved folder", "transformers", "pillow")
def image_pipeline(folder: Path) -> None:
    from PIL import Image

    import weightcast.integrations.huggingface

    model = wc.convert(vit(channels=3), PLAN).eval()
    model.save_pretrained(folder)
    processor = ViTImageProcessor(do_resize=False)
    processor.save_pretrained(folder)
    shown = [
        Image.fromarray((image[0] * 255).byte().numpy()).convert("RGB") for image in digits()[0][:3]
    ]
    classify = pipeline("image-classification", str(folder), device="cpu")
    found = [max(answer, key=lambda row: row["score"])["label"] for answer in classify(shown)]
    with torch.no_grad():
        best = model(**processor(shown, return_tensors="pt")).logits.argmax(1)
    assert found == [f"LABEL_{int(index)}" for index in best]


@flow("A class of one's own with HubMixin: save_pretrained, from_pretrained", "huggingface-hub")
def hub_mixin(folder: Path) -> None:
    from weightcast.integrations.hub import HubMixin

    class Digits(HubMixin, nn.Module):
        def __init__(self, hidden: int = 32) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)
            )

        def forward(self, x):
            return self.layers(x)

    model = wc.convert(Digits(hidden=48), PLAN)
    model.save_pretrained(folder / "digits")
    loaded = Digits.from_pretrained(folder / "digits")
    images, _ = digits()
    assert torch.equal(loaded(images), model(images))
