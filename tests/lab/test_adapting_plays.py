"""Adapting SmolLM2 to plays: counts of its own layers, parts of the text, runs on one block."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weightcast_lab.studies.adapting import on_plays as plays
from weightcast_lab.studies.adapting.on_plays import METHODS, SIZES, PlaysConfig
from weightcast_lab.studies.adapting.trained import measure
from weightcast_lab.sweeps.trial import Place, load_kind

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers', of what PEFT asks
TEXT = "".join(chr(300 + n) for n in range(1_200))
"""Every letter once, so that windows are known by their letters."""


def one_block():
    """SmolLM2 with one of its 30 blocks, another vocabulary and random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1_500, hidden_size=576, intermediate_size=1_536, num_hidden_layers=1,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), lambda text: {"input_ids": [*map(ord, text)]}


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setattr(plays, "smollm2", one_block)
    small = {"LENGTH": 8, "N_INPUTS": 8, "N_ASIDE": 15, "N_VALIDATION": 4, "N_TEST": 6}
    for name, value in small.items():
        monkeypatch.setattr(plays, name, value)
    (tmp_path / "plays.txt").write_text(TEXT, "utf-8")
    return Place({"tinyshakespeare": str(tmp_path / "plays.txt")})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_in_each_block_a_thirtieth_of_its_size(method, size):
    model, _ = one_block()
    examples = list(torch.randint(1_500, (8, 96), generator=torch.Generator()).split(2))
    adapted = METHODS[method].adapt(model, METHODS[method].settings[size], examples, 0)
    learned = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    if method == "LoRA-FA":  # whose optimiser leaves A as it is, and whose ranks are all alike
        learned = {name: n for name, n in learned.items() if "lora_B" in name}
        assert sum(learned.values()) == pytest.approx(size / 30, rel=0.02)
    else:
        assert 30 * sum(learned.values()) == size
    assert len({name.partition("_proj")[0] for name in learned}) == 7


def test_a_run_tests_once_and_a_choice_never(place):
    config = PlaysConfig("LoRA", steps=2, labels={"method": "LoRA", "learned": SIZES[0]})
    run, choose = load_kind("adapt-plays"), load_kind("adapt-plays-choice")
    row = run(config, place)
    assert 30 * row["counts"]["learned"] == SIZES[0]
    assert run(config, place)["metrics"]["test_loss"] == row["metrics"]["test_loss"]
    chosen = choose(config, place)
    assert not [name for name in chosen["metrics"] if "test" in name]
    assert "validation_loss" in chosen["metrics"]


def test_what_is_measured_was_never_trained_on(place):
    config = PlaysConfig("LoRA", steps=200)  # more than there is: all windows are taken

    def letters(batches):
        return {letter for (x,), y in batches for letter in [*x.flatten().tolist(), *y.tolist()]}

    tested, chosen = plays.task(config, place), plays.task(config, place, validation=True)
    train, test = letters(tested.batches), letters(tested.measured)
    validation = letters(chosen.measured)
    assert min(test) >= ord(TEXT[1_080])
    assert not test & validation
    # The last letter to be guessed in one part is the first letter of the next.
    assert len(train & (test | validation)) <= 1
    assert max(train) <= min(validation)


@pytest.mark.slow
def test_v_learns_what_comes_next(place, tmp_path):
    (tmp_path / "plays.txt").write_text("to be or not, " * 200, "utf-8")
    first, last = (
        load_kind("adapt-plays-choice")(PlaysConfig(plays.OURS, SIZES[0], rate, steps=25), place)[
            "metrics"
        ]
        for rate in (1e-12, 0.02)
    )
    assert last["validation_loss"] < first["validation_loss"] - 0.5


def test_nats_are_those_of_the_next_token():
    model, _ = one_block()
    tokens = torch.randint(1_500, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens, labels=tokens).loss
    batches = plays.in_order((tokens[:, :-1], tokens[:, 1:]))
    _, found = measure(plays.NextTokens(model), batches)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_windows_lie_far_apart():
    windows = torch.arange(10).unsqueeze(1)
    assert plays.apart((windows, windows), 4)[1].flatten().tolist() == [0, 2, 5, 7]


def test_a_size_of_another_network_is_refused():
    with pytest.raises(ValueError, match="no method 'LoRA' with 82944"):
        PlaysConfig("LoRA", 82_944)
    with pytest.raises(ValueError, match="no method 'VeRA'"):
        PlaysConfig("VeRA")
