"""A corrupted folder is refused with a FormatError, at once; or it loads as if nothing had been."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightcast as wc
from tests.at_once import at_once
from tests.fuzz import corruptions
from tests.fuzz.corruptions import Files
from tests.fuzz.heavy import heavy_folders
from tests.saved_folders import X, make_dense, make_model, save_quietly
from weightcast.storage import manifest as facts_format
from weightcast.storage.tensors import TensorFile

pytestmark = [
    # What nonsense in a kernel's parameters makes NumPy and scikit-learn say.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).parents[2]
BASES = {
    "Kernel": ("Kernel", "rebuild"),
    "Covariance": ("Covariance", "rebuild"),
    "Wavelet-stored": ("Wavelet", "store"),
}


@pytest.fixture(
    scope="module",
    params=["Kernel", *(pytest.param(name, marks=pytest.mark.slow) for name in list(BASES)[1:])],
)
def saved(request, tmp_path_factory):
    """A folder's files, and what the model in it answers."""
    dictionary, bases = BASES[request.param]
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = make_model(dictionary).eval()
    save_quietly(model, folder, bases=bases)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        return files, model(X)


def check(what: str, files: Files, expected: torch.Tensor, folder: Path, exact: bool) -> bool:
    """Whether a folder was refused; fails if it loads as something else, or takes a second."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    dense = make_dense().eval()
    loaded, message = at_once(lambda: _load(folder, dense), what)
    assert message.startswith(str(folder)) or loaded is not None, what
    assert len(message) < 3000, what
    assert message.isprintable(), what
    assert "allocate" not in message, f"{what}: {message}"
    if loaded is not None:
        with torch.no_grad():
            outputs = loaded(X)
        if exact:
            assert torch.equal(outputs, expected), what
        else:
            torch.testing.assert_close(outputs, expected, msg=what)
    return loaded is None


def _load(folder: Path, dense: torch.nn.Module) -> tuple[torch.nn.Module | None, str]:
    """The model, or None, and why there is none."""
    try:
        return wc.load(folder, dense), ""
    except wc.FormatError as error:
        return None, str(error)


def test_accidents(saved, tmp_path):
    files, expected = saved
    choose = random.Random(0)
    cases = list(corruptions.accidents(files, choose, 320))
    refused = [check(what, case, expected, tmp_path / "m", True) for what, case in cases]
    assert sum(refused) > 0.9 * len(cases) >= 288


def test_headers(saved, tmp_path):
    files, expected = saved
    cases = [*corruptions.header_accidents(files), *corruptions.lying_headers(files)]
    refused = [check(what, case, expected, tmp_path / "m", True) for what, case in cases]
    assert sum(refused) > 0.9 * len(cases) > 300


def test_facts(saved, tmp_path):
    files, expected = saved
    cases = list(corruptions.lying_facts(files, random.Random(1), 250))
    # The path may be another, which rounds otherwise.
    refused = [check(what, case, expected, tmp_path / "m", False) for what, case in cases]
    assert sum(refused) > 0.6 * len(cases)


def test_other_files(saved, tmp_path, capsys):
    files, expected = saved
    for what, case in corruptions.other_files(files):
        assert check(what, case, expected, tmp_path / "m", True), what
    assert "executed" not in capsys.readouterr().out


def test_slow_plans(saved, tmp_path):
    files, expected = saved
    for what, case in (*corruptions.slow_plans(files), *corruptions.odd_keys(files)):
        assert check(what, case, expected, tmp_path / "m", True), what


@pytest.mark.parametrize(
    ("dense", "files"),
    [pytest.param(dense, files, id=what) for what, dense, files in heavy_folders()],
)
def test_heavy_folders(dense, files, tmp_path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    loaded, message = at_once(lambda: _load(tmp_path, dense))
    assert loaded is None
    assert "layer '0'" in message


def test_many_names(saved, tmp_path, monkeypatch):
    files, expected = saved
    monkeypatch.setattr(TensorFile, "__init__", None)  # which reads the header
    for what, case in corruptions.many_names(files):
        assert check(what, case, expected, tmp_path / "m", True), what


def test_a_million_modules(saved, tmp_path):
    files, expected = saved
    million = ",".join(f'"{number}":{{}}' for number in range(1_000_000)).encode()
    text = files["weightcast.json"].replace(b'"layers": {', b'"layers": {' + million + b",")
    assert len(text) > 1e7
    case = files | {"weightcast.json": text}
    assert check("a million modules", case, expected, tmp_path / "m", True)


def test_what_is_refused_by_its_size_is_what_a_model_never_has(tmp_path):
    # The bound is for facts of this model, with room to spare.
    save_quietly(make_model("Kernel"), tmp_path / "m")
    names = [name for name, _ in make_dense().named_modules()]
    size = (tmp_path / "m" / "weightcast.json").stat().st_size
    assert 5 * size < facts_format.max_bytes([*names, *make_dense().state_dict()]) < 2e5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read on Linux")
def test_memory_is_bounded_by_the_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.peaks", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(wc.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    peaks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(peaks) >= 8
    for peak in peaks:
        assert peak["mebibytes"] <= 2 * peak["files"] + 2, peak
        assert peak["refused"] == (peak["what"] != "as saved"), peak
