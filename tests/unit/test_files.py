"""atomic_folder: whatever fails, and wherever, the old folder or the new one is there, whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import weightcast as wc
from tests.saved_folders import X, make_dense, make_model, save_quietly
from weightcast import files
from weightcast.files import exchange
from weightcast.storage import tensors

OLD, NEW = make_model("DCT").eval(), make_model("LocalKernel").eval()
MOUNTS = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(params=["exchange", "two renames"])
def swapping(request, monkeypatch):
    """Where two names can change places in one step, and where they cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    elif not (hasattr(os, "O_DIRECTORY") and sys.platform in ("linux", "darwin")):
        pytest.skip("this system has no exchange")
    return request.param


def holds(folder: Path) -> str:
    """Which model a folder holds."""
    loaded = wc.load(folder, make_dense().eval())
    found = [name for name, m in (("old", OLD), ("new", NEW)) if torch.equal(loaded(X), m(X))]
    assert len(found) == 1
    return found[0]


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()} - {folder.name}


@pytest.mark.usefixtures("swapping")
def test_saving_replaces_the_whole_folder(tmp_path):
    save_quietly(make_model("Covariance"), tmp_path / "model")
    (tmp_path / "model" / "stray.txt").write_text("old")
    wc.save(NEW, tmp_path / "model")
    assert not (tmp_path / "model" / "stray.txt").exists()
    assert holds(tmp_path / "model") == "new"
    assert not beside(tmp_path / "model")


def test_the_folder_is_as_readable_as_any_other(tmp_path):
    before = os.umask(0o027)
    try:
        wc.save(OLD, tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    for file in (tmp_path / "model").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no saved model, so it is not replaced"):
        wc.save(OLD, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="not replaced"):
        wc.save(OLD, tmp_path / "file")
    with pytest.raises(ValueError, match="not replaced"):
        wc.save(OLD, "/")


def test_an_empty_folder_is_taken_and_a_link_is_followed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "model")
    wc.save(OLD, tmp_path / "latest")
    wc.save(NEW, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert holds(tmp_path / "model") == "new"


def test_a_missing_parent_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        wc.save(OLD, tmp_path / "nowhere" / "model")


class FaultError(OSError):
    pass


STEPS = [
    (os, "mkdir"),
    (os, "open"),
    (os, "fsync"),
    (os, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (Path, "open"),
    (Path, "write_bytes"),
    (files, "exchange"),
    (tensors, "_chunks"),  # of what is about to be written
]


class Failing:
    """A function that fails at one of its calls, and counts them."""

    def __init__(self, function, at: int | None) -> None:
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise FaultError(errno.EIO, "a fault")
        return self.function(*arguments, **options)


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("existing", [True, False])
def test_a_fault_at_any_step(owner, name, existing, swapping, tmp_path, monkeypatch):
    n_calls = 1
    for at in range(100):
        if at >= n_calls:
            break
        folder = tmp_path / f"{at}" / "model"
        folder.parent.mkdir()
        if existing:
            wc.save(OLD, folder)
        with monkeypatch.context() as patch:
            original = getattr(owner, name)
            failing = Failing(original, at)
            bound = failing if owner is not Path else lambda *a, f=failing, **o: f(*a, **o)
            patch.setattr(owner, name, bound)
            try:
                wc.save(NEW, folder)
                failed = False
            except FaultError:
                failed = True
        n_calls = max(n_calls, failing.calls)
        if existing:
            # A fault after the exchange is told, too: then the new folder may not be on the disk.
            assert holds(folder) in ("old", "new")
            assert failed or holds(folder) == "new"
        elif folder.exists():
            assert holds(folder) == "new"
        else:
            assert failed
        wc.save(OLD, folder)
        assert holds(folder) == "old"
        assert not beside(folder)
    else:
        pytest.fail("a save takes more steps than expected")
    if name not in ("exchange", "rename", "unlink", "rmdir"):
        assert failing.calls > 0


def test_what_was_set_aside_is_loaded_and_put_back(tmp_path, monkeypatch):
    folder, old = tmp_path / "model", tmp_path / f".model.{'0' * 16}.old"
    wc.save(OLD, folder)
    folder.rename(old)  # as if a saver had died between two renames
    assert holds(folder) == "old"
    assert not folder.exists()
    monkeypatch.setattr(tensors, "_chunks", Failing(None, 0))
    with pytest.raises(OSError, match="a fault"):
        wc.save(NEW, folder)
    monkeypatch.undo()
    assert holds(folder) == "old"
    assert folder.exists()
    assert not beside(folder)


def test_leftovers_of_the_dead_are_removed_and_others_are_not(tmp_path):
    folder = tmp_path / "model"
    wc.save(OLD, folder)
    dead = [
        tmp_path / f".model.{token * 8}.{kind}" for token in ("0a", "f1") for kind in ("new", "old")
    ]
    others = [
        tmp_path / ".model.backup.new",
        tmp_path / f".model2.{'0a' * 8}.new",
        tmp_path / f".model.v2.{'0a' * 8}.new",
    ]
    for path in (*dead, *others):
        path.mkdir()
        (path / "model.safetensors").write_text("half")
    wc.save(NEW, folder)
    assert beside(folder) == {path.name for path in others}


def test_the_living_keep_what_they_write(tmp_path):
    folder = tmp_path / "model"
    with files.atomic_folder(folder, lambda _: True) as part:
        (part / "half").write_text("written")
        wc.save(OLD, folder)  # another saver, meanwhile
        assert (part / "half").read_text() == "written"
        wc.save(NEW, part.parent / "another")
        assert part.exists()
    assert {file.name for file in folder.iterdir()} == {"half"}


def test_what_is_there_is_looked_at_while_no_other_saver_replaces_it(tmp_path):
    folder, others = tmp_path / "model", []
    wc.save(OLD, folder)

    def may_replace(target) -> bool:
        others.append(threading.Thread(target=wc.save, args=(NEW, folder)))
        others[-1].start()
        others[-1].join(0.3)
        assert others[-1].is_alive()  # it waits for its turn
        return True

    with files.atomic_folder(folder, may_replace) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
    for other in others:
        other.join()


def test_two_savers_and_two_readers_at_once(swapping, tmp_path):
    folder, errors = tmp_path / "model", []
    wc.save(OLD, folder)
    ended = threading.Event()

    def guarded(work) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def save(model: nn.Module) -> None:
        for _ in range(40):
            wc.save(model, folder)

    def read() -> None:
        dense = make_dense().eval()
        while not ended.is_set():
            V = wc.load(folder, dense)[0].V
            assert any(
                torch.equal(V, model[0].V) for model in (OLD, NEW) if model[0].V.shape == V.shape
            )

    savers = [
        threading.Thread(target=guarded, args=(lambda m=model: save(m),)) for model in (OLD, NEW)
    ]
    readers = [threading.Thread(target=guarded, args=(read,)) for _ in range(2)]
    for thread in (*savers, *readers):
        thread.start()
    for thread in savers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()
    assert not errors
    assert holds(folder) in ("old", "new")
    assert not beside(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KiB."""
    if not MOUNTS or sys.platform != "linux":
        pytest.skip("mounting a small tmpfs takes root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk):
    folder = small_disk / "model"
    wc.save(OLD, folder)
    with pytest.raises(OSError, match="No space left on device"):
        wc.save(nn.Linear(300, 300), folder)
    assert holds(folder) == "old"
    assert not beside(folder)
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(OSError, match="No space left on device"):
        wc.save(NEW, folder)
    assert holds(folder) == "old"
    (small_disk / "ballast").unlink()
    wc.save(NEW, folder)
    assert holds(folder) == "new"
    assert not beside(folder)


def test_a_read_only_folder(small_disk):
    wc.save(OLD, small_disk / "model")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        wc.save(NEW, small_disk / "model")
    assert holds(small_disk / "model") == "old"


def test_temporary_files_on_another_file_system(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert Path(tempfile.gettempdir()) == small_disk
    wc.save(OLD, tmp_path / "model")
    big = nn.Linear(300, 300)  # more than the small disk holds
    wc.save(big, tmp_path / "model")
    assert torch.equal(wc.load(tmp_path / "model", nn.Linear(300, 300)).weight, big.weight)
    wc.save(NEW, small_disk / "model")  # and on that file system itself
    assert holds(small_disk / "model") == "new"


def test_exchange(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    (a / "file").write_text("a")
    b.mkdir()
    if not exchange(a, b):
        pytest.skip("this file system has no exchange")
    assert (b / "file").read_text() == "a"
    assert not any(a.iterdir())
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOENT))):
        exchange(a, tmp_path / "missing")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_systems_without_exchange(code, tmp_path, monkeypatch):
    class Library:
        @staticmethod
        def renameat2(*_):
            files.ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: Library)
    assert not exchange(tmp_path, tmp_path)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path, tmp_path)
