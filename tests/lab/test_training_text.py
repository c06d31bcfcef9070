"""Text for language models: windows, splits, and training on them."""

import math

import datasets
import pytest
import torch
from torch.nn import functional as F

import weightcast as wc
from weightcast_lab.data.text import DESCRIPTIONS
from weightcast_lab.studies.train import train
from weightcast_lab.training import (
    ModelSettings,
    TrainConfig,
    TrainingSettings,
    fit,
    gpt,
    load_text,
    measure,
)
from weightcast_lab.training.build import build_model, read_data

ALPHABET = "abcdefghij"
PLAY = ALPHABET * 60  # each character follows from the one before


@pytest.fixture
def play(tmp_path):
    file = tmp_path / "play.txt"
    file.write_text(PLAY, encoding="utf-8")
    return file


def test_windows_follow_one_another_and_y_is_one_character_on(play):
    text = load_text(str(play), context=7, n_validation=5)
    assert (text.name, text.alphabet, text.n_classes, text.context) == ("play", ALPHABET, 10, 7)
    pieces = []
    for (x, y), n in ((text.train, 72), (text.validation, 5), (text.test, 8)):
        assert x.shape == y.shape == (n, 7)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y.flatten()[:-1], x.flatten()[1:])
        pieces.append(text.decode(x.flatten()))
    # The last tenth is the test split; what is no whole window is left out.
    assert "".join(pieces[:2]) == PLAY[: 77 * 7]
    assert pieces[2] == PLAY[540 : 540 + 56]


def test_fewer_keeps_the_first_windows(play):
    text = load_text(str(play), context=7)
    assert text.validation is None
    assert torch.equal(text.fewer(3).train[0], text.train[0][:3])
    with pytest.raises(ValueError, match="n_train is 78: play has 77 training windows"):
        text.fewer(78)


def test_the_packaged_text_is_there_without_a_network():
    text = load_text(DESCRIPTIONS, context=50)
    assert 30_000 < text.train[0].numel() + text.test[0].numel() < 60_000
    assert "digits" in text.decode(text.train[0].flatten())


def test_a_folder_with_splits_keeps_its_own_test_split(tmp_path):
    folder = tmp_path / "plays"
    for split, lines in (("train", ["abc", "cab"] * 9), ("test", ["bd", "ad"])):
        file = folder / split / "data.parquet"
        file.parent.mkdir(parents=True)
        datasets.Dataset.from_dict({"text": lines}).to_parquet(file)
    text = load_text(str(folder), context=4)
    assert (text.name, text.alphabet) == ("plays", "\nabcd")
    assert text.decode(text.train[0].flatten()).startswith("abc\ncab\n")
    assert text.decode(text.test[0].flatten()) == "bd\na"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context is 0"),
        ({"context": 60}, "8 training and 0 test windows of 60 characters"),
        ({"context": 7, "n_validation": 77}, "77 training and 8 test windows .* 77 are to be set"),
    ],
)
def test_too_short_texts_are_refused(play, options, message):
    with pytest.raises(ValueError, match=message):
        load_text(str(play), **options)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"cannot read .*noise\.txt"):
        load_text(str(tmp_path / "noise.txt"))
    with pytest.raises(ValueError, match="there is no data folder no/such/place: give a text file"):
        load_text("no/such/place")
    folder = tmp_path / "numbers"
    datasets.Dataset.from_dict({"label": [1, 2]}).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match=r"the split 'train' has the columns label: .* 'text'"):
        load_text(str(folder))


def test_measure_is_the_mean_over_all_characters(play):
    text = load_text(str(play), context=7)
    model = gpt(10, 7, 8, 1, seed=0)
    x, y = text.test
    logits = model(x).detach()
    score = measure(model, text.test, batch_size=20)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits.flatten(0, 1), y.flatten())))
    assert score.error == pytest.approx(100 * float((logits.argmax(dim=2) != y).float().mean()))


SETTINGS = TrainingSettings(epochs=6, batch_size=8, learning_rate=1e-2)


@pytest.mark.parametrize("plan", [None, {"re:blocks.*": wc.Rule(wc.dictionaries.DCT(), 0.5, 2)}])
def test_a_gpt_learns_what_follows(play, plan):
    text = load_text(str(play), context=7, n_validation=5)
    model = gpt(10, 7, 16, 1, seed=0)
    if plan:
        model = wc.convert(model, plan)
    assert measure(model, text.test).loss > 0.8 * math.log(10)
    result = fit(model, text, SETTINGS, progress=False, accelerator="cpu")
    assert result.validation is not None
    assert result.test.loss < 0.3
    assert result.test.error < 5
    assert result.steps == 6 * 9


def config(play, **changes):
    fields = {
        "data": str(play),
        "model": ModelSettings("gpt", hidden=(16,), depth=1),
        "training": SETTINGS,
        "context": 7,
        "n_validation": 5,
        "accelerator": "cpu",
    }
    return TrainConfig(**{**fields, **changes})


def test_a_run_keeps_the_weights_with_the_smallest_validation_loss(play, tmp_path, capsys):
    settings = TrainingSettings(epochs=3, batch_size=8, test_weights="best")
    run = train(config(play, training=settings, output=str(tmp_path / "run")))
    metrics = run.row["metrics"]
    assert run.row["variant"] == "gpt"
    assert run.row["dataset"] == "play"
    assert metrics["test_loss"] == run.result.test.loss
    assert 0 < metrics["validation_loss"] < 3
    assert "validation loss" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_config_builds_the_network_it_names(play, name):
    given = config(play, model=ModelSettings(name, hidden=(16,), depth=3))
    model = build_model(given, read_data(given, given.data))
    assert model.classifier.in_features == 16
    assert (len(model.blocks) if name == "gpt" else model.lstm.num_layers) == 3


@pytest.mark.parametrize("n_inputs", [30, 77])
def test_dictionaries_are_made_from_windows(play, n_inputs, monkeypatch):
    plan = wc.Plan({"re:.*expand": wc.Rule(wc.dictionaries.Covariance(), 0.5)}).to_dict()
    given = config(play, plan=plan, n_inputs=n_inputs, n_validation=0)
    data = read_data(given, given.data)
    monkeypatch.setattr("weightcast_lab.training.build.TEXT_BATCH", 39)  # two batches of 77
    assert build_model(given, data).blocks[0].expand.V.shape == (8, 64)


@pytest.mark.parametrize("name", ["resnet20", "vit"])
def test_config_builds_networks_for_images(name):
    hidden = (4, 6, 8) if name == "resnet20" else (16,)
    given = TrainConfig(model=ModelSettings(name, hidden=hidden))
    model = build_model(given, read_data(given, "digits"))
    assert model.classifier.in_features == hidden[-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "gpt", "hidden": (3, 4)}, "gpt has one width: give one number"),
        ({"name": "resnet20", "hidden": (3, 4)}, "resnet20 has three stages: give three numbers"),
        ({"name": "mlp", "depth": 3}, "depth is 3, but mlp has none to set"),
    ],
)
def test_widths_that_do_not_fit_the_network_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelSettings(**fields)


UNREADABLE = {
    "ragged.csv": (b"text\nx\n1,2,3\n", "ragged.csv: "),
    "latin.txt": (b"caf\xe9\n", "latin.txt: "),
    "cut.parquet": (b"PAR1 and nothing more", "cut.parquet: "),
    "broken.jsonl": (b'{"text": "a"}\n{"text": ', "broken.jsonl: "),
    "script.py": (b"1", "scripts are no longer supported"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_of_a_folder_that_cannot_be_read_is_named(name, tmp_path, monkeypatch):
    data, message = UNREADABLE[name]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / (name if name == "script.py" else f"train-{name}")).write_bytes(data)
    if name == "script.py":
        (folder / name).rename(folder / "texts.py")
    with pytest.raises(ValueError, match=f"cannot read .*{message}"):
        load_text(str(folder), context=2)


@pytest.mark.parametrize("odd", [None, 3, 0.5, [1]])
def test_a_row_that_is_no_text_is_named(odd, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    rows = ["x" * 99, odd] if odd is None else [odd, odd]
    datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "texts" / "train.parquet")
    with pytest.raises(ValueError, match=r"row [01] of the split 'train' is "):
        load_text(str(tmp_path / "texts"), context=2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_has_the_same_characters_in_every_file(encoding, end, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes((f"caf\u00e9{end}au lait{end}" * 9).encode(encoding))
    text = load_text(str(file), context=1)
    assert text.alphabet == "".join(sorted(set("caf\u00e9\nau lait\n")))
