"""Adapting an LSTM and convolutions: matched counts, who is left out, runs of small networks."""

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.lab.speech_corpora import write_digits
from weightcast.layers import adapted_layers
from weightcast_lab.data.images import Images
from weightcast_lab.data.prepared import save_images
from weightcast_lab.networks.pretrained.efficientnet import EfficientNetLite0
from weightcast_lab.networks.pretrained.voices import VoiceEncoder
from weightcast_lab.studies.adapting import on_pictures as pictures
from weightcast_lab.studies.adapting import on_voices as voices
from weightcast_lab.studies.adapting.methods import FULL, HEAD, LORA, OURS
from weightcast_lab.studies.adapting.trained import drawn, table
from weightcast_lab.sweeps.trial import Place, load_kind

pytestmark = pytest.mark.filterwarnings("ignore:LoRA adapter added:UserWarning")

POINTS = [
    pytest.param(study, method, size, marks=[] if method in (LORA, HEAD) else pytest.mark.slow)
    for study in (voices, pictures)
    for method, own in study.METHODS.items()
    for size in own.settings
]


def small_voice_encoder():
    torch.manual_seed(0)
    return VoiceEncoder().eval()


def small_efficientnet():
    torch.manual_seed(0)
    return EfficientNetLite0().eval()


@pytest.fixture
def studies(monkeypatch, tmp_path):
    """Both with random weights and few examples; where their data lie."""
    monkeypatch.setattr(voices.voices, "resemblyzer", small_voice_encoder)
    monkeypatch.setattr(voices, "N_FRAMES", 20)
    monkeypatch.setattr(voices, "N_INPUTS", 64)
    monkeypatch.setattr(pictures, "efficientnet_lite0", small_efficientnet)
    for name, value in {"N_INPUTS": 32, "N_VALIDATION": 10, "N_TEST": 20, "SIDE": 32}.items():
        monkeypatch.setattr(pictures, name, value)
    pixels = torch.randint(256, (80, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    labels = torch.arange(80) % 10
    images = Images("ten", (pixels[:60], labels[:60]), None, (pixels[60:], labels[60:]), 10)
    data = {"CIFAR-10 (JPEG copy)": str(save_images(images, tmp_path / "ten.safetensors"))}
    return Place(data | {"fsdd": str(write_digits(tmp_path / "fsdd", 6, speakers="abc"))})


@pytest.mark.parametrize(("study", "method", "size"), POINTS)
def test_each_method_learns_as_many_weights_as_its_size_says(studies, study, method, size):
    if study is voices:
        network, x = voices.States(small_voice_encoder().lstm), torch.rand(64, 20, 40)
    else:
        network, x = pictures.features_of(small_efficientnet()), torch.rand(32, 3, 32, 32)
    before = network(x)
    own = study.METHODS[method]
    adapted = own.adapt(network, own.settings[size], [x], 0)
    assert torch.equal(adapted(x), before)
    learned = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    if size is None:
        assert bool(learned) == (method == FULL)
    else:
        assert learned == pytest.approx(size, rel=0.1)


@pytest.mark.slow
def test_ours_adapts_what_loras_adapts():
    network = pictures.features_of(small_efficientnet())
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    blocks = {n: m for n, m in convolutions.items() if n.startswith("1.")}
    x = [torch.rand(8, 3, 32, 32)]
    adapted = pictures.METHODS[OURS].adapt(network, 2, x, 0)
    assert [*adapted_layers(adapted)] == [n for n, m in blocks.items() if m.groups == 1]
    deeper = pictures.METHODS[pictures.DEEPER].adapt(network, 1, x, 0)
    assert {*adapted_layers(deeper)} == {*blocks}
    lstm = voices.States(small_voice_encoder().lstm)
    adapted = voices.METHODS[OURS].adapt(lstm, 6, [torch.rand(64, 20, 40)], 0)
    assert len(adapted_layers(adapted)) == 6


def test_peft_refuses_lstms_and_depthwise_convolutions_as_the_docs_say():
    import peft

    said = r"Target module LSTM\(40, 256, num_layers=3, batch_first=True\) is not supported"
    with pytest.raises(ValueError, match=said):
        peft.get_peft_model(
            voices.States(small_voice_encoder().lstm), peft.LoraConfig(target_modules=["lstm"])
        )
    with pytest.raises(ValueError, match=r"groups=32 and rank 4.*rank is divisible by groups"):
        peft.get_peft_model(
            pictures.features_of(small_efficientnet()),
            peft.LoraConfig(r=4, target_modules=pictures.DEPTHWISE),
        )


def test_peft_adds_b_a_to_the_matrices_of_an_lstm():
    from peft.tuners.lora.layer import ParamWrapper

    x, dense = torch.rand(3, 20, 40), voices.States(small_voice_encoder().lstm)
    own = voices.METHODS[LORA]
    adapted = own.adapt(voices.States(small_voice_encoder().lstm), {"r": 5}, [], 0)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.05)
    wrapped = [m for m in adapted.modules() if isinstance(m, ParamWrapper)]
    assert len(wrapped) == 6
    with torch.no_grad():
        for one in wrapped:
            dense.lstm.get_parameter(one.parameter_name).add_(one.get_delta_weight("default"))
    torch.testing.assert_close(adapted(x), dense(x))


@pytest.mark.parametrize(
    ("study", "kind"),
    [(voices, "Voices"), pytest.param(pictures, "Pictures", marks=pytest.mark.slow)],
)
def test_a_run_tests_once_and_a_choice_never(studies, study, kind):
    make = getattr(study, f"{kind}Config")
    run, choose = (load_kind(f"adapt-{kind.lower()}{end}") for end in ("", "-choice"))
    config = make(OURS, study.SIZES[0], 0.01, steps=2, labels={"method": OURS})
    row = run(config, studies)
    assert row["counts"]["learned"] == pytest.approx(study.SIZES[0], rel=0.02)
    assert {"test_error", "test_loss"} < row["metrics"].keys()
    again = run(config, studies)
    assert again["metrics"]["test_loss"] == row["metrics"]["test_loss"]
    chosen = choose(config, studies)
    assert not [name for name in chosen["metrics"] if "test" in name]
    assert chosen["metrics"]["validation_loss"] != row["metrics"]["test_loss"]


def test_a_speaker_is_trained_on_or_tested_or_chooses(studies, monkeypatch):
    made = []

    def mels(found):
        made.append({voice.speaker for voice in found})
        return torch.rand(len(found), 20, 40), torch.tensor([voice.digit for voice in found])

    monkeypatch.setattr(voices, "_mels", mels)
    for seed in (0, 1):
        for validation in (False, True):
            voices.task(voices.VoicesConfig(seed=seed), studies, validation=validation)
    assert made == [{"b"}, {"a"}, {"b"}, {"c"}, {"a"}, {"b"}, {"a"}, {"c"}]


def test_examples_are_drawn_in_rounds_of_all():
    x = torch.arange(80.0)
    config = voices.VoicesConfig(steps=5)
    batches = [(taken, labels) for (taken,), labels in drawn(x, x, config)]
    assert all(torch.equal(taken, labels) and len(taken) == 32 for taken, labels in batches)
    taken = torch.cat([labels for _, labels in batches])
    assert [sorted(part.tolist()) for part in taken.split(80)] == [x.tolist()] * 2


def test_the_table_has_the_sizes_of_its_rows():
    rows = [
        {"labels": {"method": method, "learned": size}, "seed": 0, "metrics": {"test_error": error}}
        for method, size, error in ((LORA, 9, 3), (OURS, 9, 2.5), (LORA, 10, 2), (HEAD, None, 4))
    ]
    lines = table(rows, voices.METHODS).splitlines()
    assert lines[0] == "| test_error, by learned weights | 9 | 10 | no size |"
    assert lines[2] == f"| {OURS} | 2.50 (-0.50) |  |  |"


def test_a_padded_convolution_is_torchs_own():
    network = pictures.features_of(small_efficientnet())
    assert {type(m) for m in network.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    x = torch.rand(2, 3, 33, 32)
    plan = {f"re:{pictures.DEPTHWISE}": wc.Rule(wc.dictionaries.DCT(), n_atoms=1)}
    assert torch.equal(wc.adapt(network, plan)(x), network(x))
