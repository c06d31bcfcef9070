"""HubMixin: folders and repositories, with the Hub replaced by a folder at its boundary."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import weightcast as wc

huggingface_hub = pytest.importorskip("huggingface_hub")
hub = pytest.importorskip("weightcast.integrations.hub")

X = torch.randn(6, 36, generator=torch.Generator().manual_seed(0))


class Digits(hub.HubMixin, nn.Module):
    def __init__(self, hidden: int = 20, names: tuple = ()) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(36, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


@pytest.fixture
def model():
    rule = wc.Rule(wc.dictionaries.Kernel(), 0.25, 4, (6, 6))
    return wc.convert(Digits(hidden=12), {"first": rule, "*": None}).eval()


def test_a_folder_there_and_back(model, tmp_path):
    assert model.save_pretrained(tmp_path / "a" / "digits") is None
    loaded = Digits.from_pretrained(tmp_path / "a" / "digits")
    assert torch.equal(loaded(X), model(X))
    assert not loaded.training
    assert isinstance(loaded.first, wc.PredictedLinear)
    names = {path.name for path in (tmp_path / "a" / "digits").iterdir()}
    assert names == {"weightcast.json", "model.safetensors", "config.json", "README.md"}
    config = json.loads((tmp_path / "a" / "digits" / "config.json").read_text())
    assert config["hidden"] == 12
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"digits"}
    # wc.load reads the same folder.
    assert torch.equal(wc.load(tmp_path / "a" / "digits", Digits(hidden=12))(X), model(X))


def test_the_card_carries_the_ledger(model, tmp_path):
    model.save_pretrained(tmp_path / "digits")
    card = huggingface_hub.ModelCard.load(tmp_path / "digits" / "README.md")
    assert card.data.library_name == "weightcast"
    assert "weightcast" in card.data.tags
    row = wc.ledger(model).rows[0]
    assert f"| first | PredictedLinear | 444 | {row.learned} | {row.proportion_learned:.1%} |" in (
        card.text
    )
    assert "| total |" in card.text
    assert 'Digits.from_pretrained("Digits")' in card.text


def test_saving_again_replaces_all_but_the_card(model, tmp_path):
    model.save_pretrained(tmp_path / "digits")
    (tmp_path / "digits" / "README.md").write_text("# My own words")
    with torch.no_grad():
        model.first.V += 1
    model.save_pretrained(tmp_path / "digits")
    assert (tmp_path / "digits" / "README.md").read_text() == "# My own words"
    assert torch.equal(Digits.from_pretrained(tmp_path / "digits")(X), model(X))


def test_other_folders_are_left_alone(model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("years of work")
    with pytest.raises(ValueError, match="not replaced"):
        model.save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "README.md").read_text() == "years of work"


class FakeApi:
    """The Hub as a folder of repositories."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, token=None):
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **options):
        assert options["repo_type"] == "model"
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, *, repo_id, filename, cache_dir=None, **options):
        source = self.root / repo_id / filename
        if not source.exists():
            raise huggingface_hub.errors.EntryNotFoundError(f"no {filename}")
        # As the real cache has it: a name that is a link to a blob.
        blob, link = self.root / "blobs" / filename, self.root / "snapshot" / filename
        for path in (blob, link):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
        shutil.copy(source, blob)
        link.symlink_to(blob)
        return str(link)


@pytest.fixture
def api(tmp_path, monkeypatch):
    fake = FakeApi(tmp_path / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", fake.download)
    monkeypatch.setattr(hub, "hf_hub_download", fake.download)
    return fake


def test_pushed_and_pulled(model, api):
    assert model.push_to_hub("me/digits") == "https://hub/me/digits/commit/1"
    assert 'from_pretrained("me/digits")' in (api.root / "me/digits/README.md").read_text()
    assert torch.equal(Digits.from_pretrained("me/digits")(X), model(X))


def test_saved_and_pushed_at_once(model, api, tmp_path):
    url = model.save_pretrained(tmp_path / "digits", push_to_hub=True, repo_id="me/digits")
    assert url == "https://hub/me/digits/commit/1"
    assert torch.equal(Digits.from_pretrained("me/digits")(X), model(X))


def test_pickles_and_partial_repositories_are_no_way_in(model, api):
    model.push_to_hub("me/digits")
    repository = api.root / "me/digits"
    torch.save(Digits(12).state_dict(), repository / "pytorch_model.bin")
    (repository / "weightcast.json").unlink()
    with pytest.raises(wc.FormatError, match=r"me/digits is no saved model: no weightcast\.json"):
        Digits.from_pretrained("me/digits")


def test_names_must_fit(model, api, tmp_path):
    class Other(Digits):
        def __init__(self, hidden: int = 20) -> None:
            super().__init__(hidden)
            self.extra = nn.Linear(2, 2)

    model.save_pretrained(tmp_path / "digits")
    with pytest.raises(wc.FormatError, match=r"missing \['extra.bias', 'extra.weight'\]"):
        Other.from_pretrained(tmp_path / "digits")


ODD_CONFIGS = {
    "nested": "[" * 30_000,
    "long": '{"hidden": 12, "names": [' + "[]," * 100_000 + "[]]}",
    "NaN": '{"hidden": NaN}',
    "infinite": '{"hidden": 1e999}',
    "twice": '{"hidden": 12, "hidden": 13}',
    "list": "[12]",
    "text": '{"hidden": "rm"}',
    "negative": '{"hidden": -5}',
    "huge": '{"hidden": 1e300}',
    "UTF-16": '{"hidden": 12}'.encode("utf-16"),
    "reserved": '{"hidden": 12, "model_id": "/etc"}',
}


@pytest.mark.parametrize("where", ["folder", "repository"])
@pytest.mark.parametrize("text", ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_odd_configurations_are_refused(text, where, model, api, tmp_path):
    model.push_to_hub("me/digits")
    file = api.root / "me/digits/config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    name = "me/digits" if where == "repository" else api.root / "me/digits"
    with pytest.raises(wc.FormatError, match=r"config\.json") as raised:
        Digits.from_pretrained(name)
    assert len(str(raised.value)) < 1000


@pytest.mark.timeout(20)
def test_links_and_pipes_in_place_of_the_configuration(model, tmp_path):
    model.save_pretrained(tmp_path / "digits")
    file = tmp_path / "digits" / "config.json"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(wc.FormatError, match=r"is not read: config\.json is no regular file"):
        Digits.from_pretrained(tmp_path / "digits")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(wc.FormatError, match=r"is not read: config\.json is no regular file"):
        Digits.from_pretrained(tmp_path / "digits")
    file.unlink()
    loaded = Digits.from_pretrained(tmp_path / "digits", hidden=12)  # it need not be there
    assert torch.equal(loaded(X), model(X))


def test_a_configuration_that_could_not_be_read_again_is_not_saved(tmp_path):
    class Wide(Digits):
        def __init__(self, hidden: int = 20, rate: float = float("inf")) -> None:
            super().__init__(hidden)

    with pytest.raises(ValueError, match=r"config\.json.*Infinity is no finite number"):
        Wide().save_pretrained(tmp_path / "wide")
    assert not list(tmp_path.iterdir())


def test_the_mixin_wants_a_module():
    class Nothing(hub.HubMixin):
        pass

    with pytest.raises(TypeError, match=r"Nothing takes HubMixin but is no nn\.Module"):
        Nothing.from_pretrained(".")
