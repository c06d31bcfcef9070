"""Adapting MiniLM: methods with matched counts, runs on a small encoder, the table."""

import subprocess
import sys

import pytest
import torch

from tests.small_minilm import small_minilm
from weightcast_lab.data.glosses import Gloss, read_glosses, split_by_word
from weightcast_lab.studies.adapting import on_glosses as glosses
from weightcast_lab.studies.adapting.methods import FULL, HEAD, METHODS, OURS, SIZES
from weightcast_lab.studies.adapting.on_glosses import AdaptConfig
from weightcast_lab.studies.adapting.trained import table, train
from weightcast_lab.sweeps.trial import Place, load_kind

WORDS = ["a", "the", "of", "used", "made", "small", "plant", "person"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers', of what PEFT asks


@pytest.fixture
def small(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(400):
        picked = torch.randint(len(WORDS), (5,), generator=generator).tolist()
        text = f"{number} " + " ".join(WORDS[i] for i in picked)
        found.append(Gloss(text, picked[0] % 4, f"word {number}"))
    monkeypatch.setattr(glosses, "read_glosses", lambda _: found)
    monkeypatch.setattr(glosses, "minilm", lambda: small_minilm(6))
    for name, value in {"N_INPUTS": 32, "N_VALIDATION": 10, "N_TEST": 20}.items():
        monkeypatch.setattr(glosses, name, value)


def _sized(method):
    settings = METHODS[method].settings
    return SIZES[2] if SIZES[2] in settings else list(settings)[-1]


@pytest.mark.parametrize(
    "method",
    [
        name if name in ("LoRA", HEAD) else pytest.param(name, marks=pytest.mark.slow)
        for name in METHODS
    ],
)
def test_each_method_trains_as_many_weights_as_its_size_says(small, method):
    size = _sized(method)
    encoder, _ = small_minilm(6)
    examples = glosses.task(AdaptConfig(steps=1), Place()).examples
    adapted = METHODS[method].adapt(encoder, METHODS[method].settings[size], examples, 0)
    learned = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    if method == "LoRA-FA":  # whose optimiser leaves A as it is
        learned = {name: n for name, n in learned.items() if "lora_B" in name}
    if size is None:
        assert bool(learned) == (method == FULL)
    else:
        assert sum(learned.values()) == pytest.approx(size, rel=0.1)


def test_a_run_tests_once_and_a_choice_never(small):
    size = SIZES[0]
    config = AdaptConfig("LoRA", size, 0.01, steps=2, labels={"method": "LoRA", "learned": size})
    row = load_kind("adapt")(config, Place())
    assert row["counts"]["learned"] == size
    assert {"test_error", "test_loss"} < row["metrics"].keys()
    again = load_kind("adapt")(config, Place())
    assert again["metrics"]["test_loss"] == row["metrics"]["test_loss"]
    chosen = load_kind("adapt-choice")(config, Place())
    assert not [name for name in chosen["metrics"] if "test" in name]
    assert "validation_loss" in chosen["metrics"]


def test_lora_fa_leaves_a_as_it_was_drawn(small):
    method = METHODS["LoRA-FA"]
    encoder, tokenizer = small_minilm(6)
    model = glosses.Classifier(method.adapt(encoder, method.settings[SIZES[1]], [], 0), 0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    config = AdaptConfig("LoRA-FA", SIZES[1], 0.01, steps=2)
    batches = glosses.Encoder(tokenizer).drawn(glosses.read_glosses(None)[:64])
    train(model, method, config, batches, [])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert all("lora_B" in name or name.startswith("head") for name in moved)
    assert any("lora_B" in name for name in moved)
    assert {"head.weight", "head.bias"} < moved


def test_glosses_are_parted_by_word(tmp_path):
    lines = [
        f"00 03 n 01 {word} 0 000 | meaning {n} of {word}\n"
        for word in map(str, range(60))
        for n in (1, 2)
    ]
    for part in ("adj", "adv", "noun", "verb"):
        (tmp_path / f"data.{part}").write_text("".join(lines))
    parts = split_by_word(read_glosses(tmp_path))
    words = [{gloss.word for gloss in part} for part in parts]
    assert [len(own) for own in words] == [48, 3, 9]
    assert len(set.union(*words)) == 60


def test_a_method_without_that_size_is_refused():
    with pytest.raises(ValueError, match=r"no method 'C3A' with 20736"):
        AdaptConfig("C3A", SIZES[0])
    with pytest.raises(ValueError, match="rate is 0"):
        AdaptConfig(HEAD, None, 0.0)


def test_the_table_pairs_seeds_with_loras():
    rows = [
        {"labels": {"method": method, "learned": SIZES[0]}, "seed": seed,
         "metrics": {"test_error": error + seed}}
        for method, error in (("LoRA", 30.0), (OURS, 29.0)) for seed in (0, 1)
    ]  # fmt: skip
    lines = table(rows, METHODS).splitlines()
    assert lines[2] == f"| {OURS} | 29.50 ± 0.71 (-1.00) |"
    assert lines[3] == "| LoRA | 30.50 ± 0.71 |"


@pytest.mark.parametrize(
    "name",
    ["on_glosses"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("on_plays", "on_voices", "on_pictures")],
)
def test_each_study_is_a_program_that_prints_its_table(name, tmp_path):
    (tmp_path / "rows.ndjson").write_text("")
    words = ["-m", f"weightcast_lab.studies.adapting.{name}", "--table"]
    found = subprocess.run(
        [sys.executable, *words, "--rows", str(tmp_path / "rows.ndjson")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "by learned weights" in found.stdout, found.stderr


def test_padding_and_what_else_is_in_a_batch_change_no_glosses_features():
    encoder, tokenizer = small_minilm(intermediate=384)
    model = glosses.Classifier(encoder, 0)
    texts = [chr(97 + n) * (1 + 7 * n % 20) for n in range(19)]  # lengths in no order
    found = tokenizer(texts, padding=True)
    with torch.no_grad():
        together = model.features(found["input_ids"], found["attention_mask"])
        for text, own in zip(texts, together, strict=True):
            alone = tokenizer([text], padding=True)
            mean = encoder(input_ids=alone["input_ids"]).last_hidden_state[0].mean(0)
            torch.testing.assert_close(own, mean)
