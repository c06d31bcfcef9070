"""Both files are opened from one folder, and nothing but files is opened."""

from __future__ import annotations

import os

import pytest

import weightcast as wc
from tests.saved_folders import assert_refused, make_dense
from weightcast.storage.open_files import open_files, open_folder


@pytest.mark.parametrize("name", ["weightcast.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    assert_refused(folder, f"is no saved model: {name} is missing")


def test_a_missing_folder(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere is no saved model")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    assert_refused(tmp_path / "file", "is no saved model")


@pytest.mark.parametrize("name", ["weightcast.json", "model.safetensors"])
def test_links_pipes_and_folders_in_place_of_files(folder, name):
    path, elsewhere = folder / name, folder.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert_refused(folder, f"is not read: {name} is no regular file")
    path.unlink()
    os.mkfifo(path)  # which nobody writes to
    assert_refused(folder, f"is not read: {name} is no regular file")
    path.unlink()
    path.mkdir()
    assert_refused(folder, f"is not read: {name} is no regular file")


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    wc.load(tmp_path / "latest", make_dense())


def test_the_files_belong_together_while_the_folder_is_replaced(folder, tmp_path):
    before = [(folder / name).read_bytes() for name in ("weightcast.json", "model.safetensors")]
    with open_folder(folder) as files:
        folder.rename(tmp_path / "old")
        wc.save(make_dense(), folder)
        assert [file.read() for file in files] == before


def test_links_to_files_elsewhere_are_followed_where_they_are_given(folder, tmp_path):
    places = [folder / "weightcast.json", folder / "model.safetensors"]
    links = [tmp_path / "a", tmp_path / "b"]
    for link, place in zip(links, places, strict=True):
        link.symlink_to(place)
    with open_files(*links) as files:
        assert [file.read() for file in files] == [place.read_bytes() for place in places]
    message = r"is no saved model: .*nowhere is missing"
    with (
        pytest.raises(wc.FormatError, match=message),
        open_files(links[0], tmp_path / "nowhere"),
    ):
        pass
