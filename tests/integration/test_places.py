"""Outputs are tried before the work that would fill them: every command, every place."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import weightcast as wc
from weightcast.cli.main import main
from weightcast.files import check_place

FACTORY = """
from torch import nn
def make(): return nn.Sequential(nn.Linear(16, 16))
def batches(): raise RuntimeError("the work has begun")
evaluate = batches
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_here.py").write_text(FACTORY, encoding="utf-8")
    save_file({"0.weight": torch.ones(16, 16), "0.bias": torch.ones(16)}, "m.safetensors")
    Path("file").touch()
    Path("other").mkdir()
    Path("other/file").touch()
    os.symlink("nowhere/at/all", "broken")
    dense = nn.Sequential(nn.Linear(16, 16))
    wc.save(wc.convert(dense, {"0": wc.Rule(wc.dictionaries.DCT(), 0.5)}), "saved")
    Path("train.yaml").write_text("model: {hidden: [8]}\ntraining: {epochs: 1}\n", encoding="utf-8")
    return tmp_path


MODEL = ["m.safetensors", "--factory", "made_here:make", "--allow-import"]
INPUTS = ["--inputs", "made_here:batches"]
COMMANDS = {
    "convert": ["convert", *MODEL, *INPUTS, "--output"],
    "compress": ["compress", *MODEL, *INPUTS, "--output"],
    "distil": ["distil", *MODEL, *INPUTS, "--small", "saved", "--steps", "1", "--output"],
    "distil, state": [
        *("distil", *MODEL, *INPUTS, "--small", "saved", "--steps", "1", "--output", "new"),
        "--state",
    ],
    "shrink": ["shrink", *MODEL, *INPUTS, "--evaluate", "made_here:evaluate", "--output"],
    "shrink, report": [
        *("shrink", *MODEL, *INPUTS, "--evaluate", "made_here:evaluate", "--output", "new"),
        "--report",
    ],
    "probe": ["probe", *MODEL, *INPUTS, "--output"],
    "train": ["train", "train.yaml", "--output"],
    "demo": ["demo", "--output"],
    "reproduce": ["reproduce", "fig1", "--preset", "smoke", "--output"],
    "report": ["report", "rows.jsonl", "--output"],
}
ROWS = {
    "convert": ["convert", *MODEL, *INPUTS, "--output", "new", "--rows"],
    "compress": ["compress", *MODEL, *INPUTS, "--output", "new", "--rows"],
    "probe": ["probe", *MODEL, *INPUTS, "--rows"],
    "train": ["train", "train.yaml", "--rows"],
    "demo": ["demo", "--rows"],
    "bench": ["bench", "--rows"],
}
FOLDERS = ["file", "file/below", "file/far/below", "/proc/x/y", "/dev/null", "~nobody-here/x"]
FILES = ["other", "file/below", "/proc/x/y", "~nobody-here/x", "other/file/rows.jsonl"]


def refused(words, capsys) -> str:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert not told.out
    return told.err


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "report"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, folder, place, capsys):
    before = sorted(place.rglob("*"))
    told = refused([*COMMANDS[command], folder], capsys)
    assert folder.partition("/")[0] in told or folder in told
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", ROWS)
def test_a_file_of_rows_that_cannot_be_written_is_refused_before_the_work(
    command, file, place, capsys
):
    before = sorted(place.rglob("*"))
    refused([*ROWS[command], file], capsys)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("command", ["convert", "compress", "distil", "shrink"])
def test_a_folder_of_something_else_is_refused_before_the_work(command, place, capsys):
    assert "holds no saved model" in refused([*COMMANDS[command], "other"], capsys)


@pytest.mark.parametrize("output", ["other", "file/below", "/proc/x/y", "~nobody-here/x"])
def test_an_export_is_refused_before_the_work(output, place, capsys):
    words = ["export", "saved", "--factory", "made_here:make", "--allow-import", "--output"]
    refused([*words, output, "--input-shape", "[16]"], capsys)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        check_place(tmp_path / "new")


@pytest.mark.parametrize("path", ["new", "far/away/new", "file", None])
def test_a_place_that_can_be_written_is_left_as_it_is(path, place):
    before = sorted(place.rglob("*"))
    check_place(path)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("plan", ["", "{}", "rules: {}", "'*': null", "rules: {'*': null}"])
@pytest.mark.parametrize("command", ["convert", "compress"])
def test_a_plan_that_says_nothing_is_refused(command, plan, place, capsys):
    Path("plan.yaml").write_text(plan, encoding="utf-8")
    words = [command, "m.safetensors", "--plan", "plan.yaml", "--output", "new"]
    assert "plan.yaml has no rule" in refused(words, capsys)


@pytest.mark.parametrize(
    "option",
    [
        *("--labels={x: .nan}", "--labels={x: [.inf]}", "--plan={rules: {}}", "--model.hidden=[0]"),
        *("--labels={x: !!binary aGk=}", "--n_train=0", "--training.epochs=0", "--seed=-1"),
        *("--n_train=99999", "--n_validation=99999", "--plan.rules.nowhere={}", "--data=./nowhere"),
    ],
)
def test_what_no_run_could_end_with_is_refused_before_it_trains(option, place, capsys):
    told = refused(["train", "train.yaml", "--output", "run", option], capsys)
    assert "weightcast: error: " in told
    assert not Path("run").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_what_a_terminal_cannot_show_ends_no_work(encoding, place, monkeypatch):
    names = ["caf\u00e9", "\u2192", "\u6f22", "\U0001f600"]
    save_file({f"{name}.weight": torch.ones(40, 40) for name in names}, "named.safetensors")
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", shown)
    output = "out-\u6f22"
    assert main(["convert", "named.safetensors", "--fraction", "0.5", "--output", output]) == 0
    assert (place / output / "weightcast.json").is_file()
    shown.flush()
    assert "PredictedLinear" in shown.buffer.getvalue().decode(encoding)
