"""weightcast doctor: what it says of this installation, of a saved folder, and of a broken one."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

import weightcast as wc
from tests.saved_folders import make_model, save_quietly
from weightcast.cli import doctor_command as doctor
from weightcast.cli.main import main


def test_all_is_well(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "All that is installed works."
    for name in ("convert", "train", "save", "load", "merge"):
        assert f"self-check: {name}" in out
    assert torch.__version__ in out


def test_a_saved_folder_as_json(tmp_path, capsys):
    wc.save(make_model(), tmp_path / "model")
    assert main(["doctor", str(tmp_path / "model"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    folder = report["checks"][-1]
    assert folder["state"] == "ok"
    assert "2 predicted layers (0 with stored bases)" in folder["detail"]
    assert "all checksums right" in folder["detail"]


def test_a_damaged_folder(tmp_path, capsys):
    wc.save(make_model(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["doctor", str(tmp_path / "model")]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "Failed: folder."
    assert "was changed after it was saved" in out
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1
    assert "is no saved model" in capsys.readouterr().out


def test_a_diverged_model(tmp_path, capsys):
    model = make_model("Covariance")
    with torch.no_grad():
        model[2].V[0, 0] = torch.inf
    save_quietly(model, tmp_path / "model")
    assert main(["doctor", str(tmp_path / "model")]) == 1
    assert "NaN or infinite: '2.V'" in capsys.readouterr().out


def test_what_is_missing_and_how_to_get_it(monkeypatch, capsys):
    def missing(name):
        if name in ("altair", "ray"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", missing)
    assert main(["doctor"]) == 0  # what is optional may be missing
    lines = capsys.readouterr().out.splitlines()
    report = next(line for line in lines if "extra report" in line)
    assert report.startswith("missing ")
    assert "without altair" in report
    assert "pip install 'weightcast[report]'" in report


def test_a_step_that_fails(monkeypatch, capsys):
    def broken(state):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(doctor._STEPS, "train", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "failed  self-check: train" in out
    assert "RuntimeError: no such kernel" in out
    assert "self-check: save" not in out


@pytest.mark.parametrize("arguments", [["--jsn"], ["a", "b"]])
def test_unknown_words(arguments, capsys):
    assert main(["doctor", *arguments]) == 2
    assert "weightcast: error: doctor knows FOLDER and --json" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["doctor", "--help"])
    assert exit.value.code == 0
    assert "a saved model to check" in capsys.readouterr().out


def test_it_needs_no_extra():
    # In a fresh interpreter in which the extras cannot be imported.
    blocked = ["jsonargparse", "pytorch_lightning", "altair", "datasets", "huggingface_hub", "pywt"]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from weightcast.cli.main import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # they are installed, and do not import
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert all("extra " in line for line in lines if line.startswith("failed "))
    assert any(line.startswith("ok      self-check: merge") for line in lines)
