"""weightcast adapt: tiny networks of the Hub's shapes on real text and real digits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, BertModel

import weightcast as wc
from tests import hub_folders
from weightcast.cli.main import main
from weightcast_lab.data.examples import PADDING, read_examples
from weightcast_lab.studies.adapt_folder import adapt_folder
from weightcast_lab.studies.adapter_config import AdapterConfig
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import SafetensorsCheckpointIO, measure
from weightcast_lab.training.hub_folder import Answers, load_network

# Tiny networks' adapters are larger than they are.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the predicted layers take:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # transformers', of what PEFT asks
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Networks and data by name, in one folder."""
    folder = tmp_path_factory.mktemp("hub")
    for make in (hub_folders.bert, hub_folders.gpt2, hub_folders.vit, hub_folders.images):
        make(folder / make.__name__)
    hub_folders.lines_of_text(folder / "lines")
    return folder


@pytest.fixture
def texts(place, tmp_path):
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02}
    return AdapterConfig.from_dict({
        "model": str(place / "bert"), "data": str(place / "lines"), "task": "text-classification",
        "learned": 2_000, "length": 24, "n_validation": 20, "n_inputs": 64, "training": training,
        "output": str(tmp_path / "run"),
    })  # fmt: skip


def test_the_command_adapts_saves_exports_and_draws(texts, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(json.dumps(texts.to_dict()))
    words = ["adapt", "run.json", "--rows", "rows.jsonl", "--peft", "lora", "--report", "page"]
    assert main([*words, "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert "bert-adapted, seed 3: epoch 3 of 3, loss 0." in err
    [row] = read_rows("rows.jsonl")
    metrics = row["metrics"]
    assert f"{metrics['test_error_before']:.2f}, {metrics['test_error']:.2f} %" in out
    assert metrics["test_loss"] < 0.8 * metrics["test_loss_before"]
    assert (row["config"]["model"], row["config"]["data"], row["seed"]) == ("bert", "lines", 3)
    head = 2 * 32 + 2
    assert 1_900 < row["counts"]["learned"] - head <= 2_000
    assert json.loads(Path("run/data.json").read_text()) == {"labels": ["page", "settings"]}

    config = replace(texts, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    data = read_examples(config.task, config.data, tokenizer, length=24, n_validation=20)
    network, heads = load_network(config.task, place / "bert", 2, torch.float32, 3)
    assert heads == ["classifier"]
    again = Answers(wc.load("run/model", network), 0)
    score = measure(again, data.test)
    assert (score.error, score.loss) == (metrics["test_error"], metrics["test_loss"])
    theirs = Answers(PeftModel.from_pretrained(network, "lora"), 0).eval()
    with torch.no_grad():
        x = data.test[0][:8]
        torch.testing.assert_close(theirs(x), again.eval()(x), rtol=1e-4, atol=1e-5)

    page = Path("page/index.html").read_text()
    assert "went from" in page
    assert '"loss"' in page
    assert main(["report", "rows.jsonl", "--output", "again"]) == 0
    assert f"{row['curve'][2]['validation_loss']:.4f}" in capsys.readouterr().out


def test_a_text_goes_on(place, tmp_path):
    config = AdapterConfig(
        str(place / "gpt2"), str(hub_folders.PAGE), "text-generation",
        learned=3_000, length=16, n_inputs=32, output=str(tmp_path / "run"),
    )  # fmt: skip
    metrics = adapt_folder(config, progress=False).row["metrics"]
    assert metrics["test_loss"] < metrics["test_loss_before"] - 0.05
    with_bias = replace(config, free=("bias",), output=str(tmp_path / "other"), dtype="bfloat16")
    assert adapt_folder(with_bias, progress=False).row["counts"]["learned"] > 3_000
    blind = replace(config, n_inputs=0, output=str(tmp_path / "blind"))
    found = adapt_folder(blind, progress=False)
    assert found.row["metrics"]["test_loss"] < metrics["test_loss_before"]  # W0 is random, small
    assert '"relative": true' in (found.folder / "model" / "weightcast.json").read_text()


def test_images_are_learned(place, tmp_path):
    plan = {"rules": {"re:.*mlp.*": {"dictionary": {"kind": "DCT"}, "n_atoms": 4, "columns": 4}}}
    config = AdapterConfig.from_dict({
        "model": str(place / "vit"), "data": str(place / "images"), "plan": plan,
        "task": "image-classification", "output": str(tmp_path / "run"),
        "training": {"epochs": 8, "batch_size": 8},
    })  # fmt: skip
    row = adapt_folder(config, progress=False).row
    assert row["metrics"]["test_loss"] < 0.9 * row["metrics"]["test_loss_before"]
    assert row["counts"]["learned"] == 2 * 4 * (64 + 32) + 33 * 10


def test_what_an_encoder_lacks_learns_beside_its_head(texts, place, tmp_path):
    bare = hub_folders.bert(tmp_path / "bare")
    network = BertModel.from_pretrained(bare, add_pooling_layer=False)
    network.save_pretrained(bare)
    row = adapt_folder(replace(texts, model=str(bare)), progress=False).row
    whole = adapt_folder(replace(texts, output=str(tmp_path / "b")), progress=False).row
    pooler = 33 * 32
    assert row["counts"]["learned"] > whole["counts"]["learned"] + 0.8 * pooler
    state = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "run" / "last.ckpt")["state_dict"]
    fresh, heads = load_network(texts.task, bare, 2, torch.float32, 0)
    assert heads == ["classifier", "bert.pooler.dense"]
    learned = state["model.network.bert.pooler.dense.weight"]
    assert not torch.equal(learned, fresh.bert.pooler.dense.weight)


def test_labels_of_a_head_of_another_size_are_new(tmp_path):
    folder = hub_folders.bert(tmp_path / "five", num_labels=5)
    five, heads = load_network("text-classification", folder, 5, torch.float32, 0)
    again, _ = load_network("text-classification", folder, 5, torch.float32, 1)
    assert torch.equal(five.classifier.weight, again.classifier.weight)
    two = [load_network("text-classification", folder, 2, torch.float32, s)[0] for s in (0, 0, 1)]
    weights = [network.classifier.weight for network in two]
    assert heads == ["classifier"]
    assert weights[0].shape == (2, 32)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_padding_changes_nothing(place):
    network, _ = load_network("text-classification", place / "bert", 2, torch.float32, 0)
    answers = Answers(network, 0).eval()
    short = torch.arange(10, 15).view(1, 5)
    filled = torch.nn.functional.pad(short, (0, 7), value=PADDING)
    both = torch.cat([filled, torch.arange(20, 32).view(1, 12)]).repeat(30, 1)
    with torch.no_grad():
        assert torch.equal(answers(filled), answers(short))
        torch.testing.assert_close(answers(both)[::2], answers(short).expand(30, -1))


def test_texts_of_like_length_go_together(place):
    network, _ = load_network("text-classification", place / "bert", 2, torch.float32, 0)
    answers, seen = Answers(network, 0), list[int]()
    network.eval()  # dropout would draw anew
    network.bert.embeddings.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
    )
    texts = [torch.arange(5, 5 + n) for n in (12, 3, 12, 3, 12, 3, 12, 3) * 2]
    padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PADDING)
    logits = answers(padded)
    assert sum(seen) == 8 * 12 + 8 * 3
    alone = torch.cat([answers(text.unsqueeze(0)) for text in texts])
    torch.testing.assert_close(logits, alone)


def refused(capsys, *words):
    """What the command says of a user's mistake."""
    assert main(["adapt", "run.json", *words]) == 2
    return capsys.readouterr().err.removeprefix("weightcast: error: ")


@pytest.mark.parametrize(("words", "said"), [
    (["--model", "nowhere"], "nowhere is no Hub folder: it needs config.json"),
    (["--data", "bert"], "cannot read"),
    (["--data", "unlabelled"], "exactly one of labels, and found 0"),
    (["--data", "strange"], "'new' labels no"),
    (["--data", "numbers"], "they must be 0 to 1"),
    (["--task", "text-generation", "--data", "PAGE", "--model", "broken"], "transformers cannot"),
    (["--model", "broken"], "transformers cannot read broken"),
    (["--task", "words"], "--task"),
    (["--length", "0"], "length is 0: it must be 1 or more"),
    (["--learned", "3"], "learned is 3, and one atom"),
    (["--n_validation", "100000"], "are to be set aside"),
    (["--heads", "[nothing]"], "nothing"),
    (["--plan", '{rules: {"*": null}}'], "the plan has no rule"),
    (["--plan.rules.nothing", "{dictionary: {kind: DCT}, n_atoms: 2}"], "nothing"),
    (["--peft", "lines"], "lines exists and holds no adapter"),
    (["--rows", "lines"], "lines"),
    (["--resume"], "no last.ckpt"),
    (["--training.test_weights", "best", "--n_validation", "0"], "set validation examples aside"),
])  # fmt: skip
def test_mistakes_are_told_before_the_work(
    words, said, texts, place, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(place)
    data = texts.to_dict() | {"model": "bert", "data": "lines"}
    Path("run.json").write_text(json.dumps(data))
    good = {"text": "a line", "label": 0}
    for name, rows in {
        "unlabelled": [{"text": "a"}],
        "strange": [{"text": "a", "label": "old"}, {"text": "b", "label": "new"}],
        "numbers": [good, good | {"label": 7}],
    }.items():
        Path(name).mkdir(exist_ok=True)
        train = [good, good | {"label": 1}] if name == "numbers" else rows[:1]
        for split, own in (("train", train), ("test", rows[1:] or rows)):
            Path(name, f"{split}.jsonl").write_text("\n".join(map(json.dumps, own)))
    Path("broken").mkdir(exist_ok=True)
    Path("broken/config.json").write_text("{}")
    Path("broken/model.safetensors").write_bytes(b"")
    words = [str(hub_folders.PAGE) if word == "PAGE" else word for word in words]
    assert said in refused(capsys, *words)
    assert not (tmp_path / "run").exists()


def test_an_encoder_generates_no_text(place, tmp_path):
    config = AdapterConfig(str(place / "bert"), str(hub_folders.PAGE), "text-generation", length=16)
    with pytest.raises(ValueError, match="it generates no text"):
        adapt_folder(replace(config, output=str(tmp_path / "run")), progress=False)


def test_a_malformed_curve_is_refused(texts):
    from weightcast_lab.report import write_report

    row = adapt_folder(texts, progress=False).row
    for curve in ([], "up", [{"epoch": 1}], [{"epoch": 1, "step": 2, "train_loss": "low"}]):
        with pytest.raises(ValueError, match="curve"):
            write_report([row | {"curve": curve}], "page")
