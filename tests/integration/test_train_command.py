"""``weightcast train`` as a user meets it: real processes, real signals, real mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import weightcast as wc
from weightcast.cli.main import main
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import SafetensorsCheckpointIO, load_images, measure_error, mlp

CONFIG = """
data: digits
variant: 5 % learned
model: {hidden: [200, 100]}
plan:
  rules:
    hidden1:
      dictionary: {kind: Kernel, kernel: {kind: SquaredExponential, length_scale: 2.0}}
      fraction: 0.05
      columns: 10
      grid: [28, 28]
    hidden2: {dictionary: {kind: Covariance}, fraction: 0.1}
training: {epochs: 3, learning_rate: 1e-2}
n_validation: 500
"""


def command(*arguments):
    return [sys.executable, "-m", "weightcast", *map(str, arguments)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(wc.__file__).parents[1])}


def start(folder, *arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "run.yaml").write_text(CONFIG)
    process = start(folder, "train", "run.yaml", "--rows", "rows.jsonl", "--seed", 2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return folder, out, err


def test_training_shows_progress_and_ends_with_a_table(finished):
    _, out, err = finished
    lines = err.splitlines()
    assert len(lines) == 3  # and no warning, no advertisement
    assert lines[2].startswith("5 % learned, seed 2: epoch 3 of 3, loss 0.")
    assert re.search(r"^hidden1 +PredictedLinear +157,000 +8,000", out, re.MULTILINE)
    assert re.search(r"^total ", out, re.MULTILINE)
    assert re.search(r"^test error +\d+\.\d\d %$", out, re.MULTILINE)


def test_training_appends_a_row(finished):
    folder, out, _ = finished
    [row] = read_rows(folder / "rows.jsonl")
    assert [row] == read_rows(folder / "runs/5-learned-seed-2/row.json")
    assert (row["experiment"], row["variant"], row["seed"]) == ("train", "5 % learned", 2)
    assert row["dataset"] == "digits (5,000 of MNIST)"
    assert row["counts"]["learned"] == 8_000 + 2_100 + 1_010
    assert f"test error        {row['metrics']['test_error']:.2f} %" in out
    assert row["metrics"]["test_error"] < 15
    assert row["config"]["training"]["epochs"] == 3
    assert str(folder) not in json.dumps(row)


def test_training_leaves_a_network_that_loads_and_has_the_test_error(finished):
    folder, _, _ = finished
    run = folder / "runs/5-learned-seed-2"
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "row.json", "model", "last.ckpt", "best.ckpt"}
    assert names >= {"data.json", "metrics.csv"}
    model = wc.load(run / "model", mlp(hidden=(200, 100)))
    [row] = read_rows(run / "row.json")
    assert (
        measure_error(model, load_images("digits").standardised().test)
        == row["metrics"]["test_error"]
    )


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in this process and in a folder of its own; returns code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_ends_the_same(finished, tmp_path, run):
    arguments = ("train", "run.yaml", "--seed", 2, "--output", "my run")
    process = start(tmp_path, *arguments)
    assert process.stderr is not None
    assert "epoch 1 of 3" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "stopped in epoch" in err
    assert "weightcast train run.yaml --seed 2 --output 'my run' --resume" in err
    assert "Traceback" not in err
    last = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "my run" / "last.ckpt")
    assert last["epoch"] < 3
    assert not (tmp_path / "my run" / "row.json").exists()

    code, out, err = run(*arguments, "--resume", "--rows", "rows.jsonl")
    assert code == 0, err
    assert "test error" in out
    assert "epoch 1 of 3" not in err
    [expected] = read_rows(finished[0] / "rows.jsonl")
    [row] = read_rows(tmp_path / "rows.jsonl")
    for one in (expected, row):
        one["metrics"].pop("train_seconds")
    assert row == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "",
            "name a command: demo, train, adapt, convert, compress, shrink, .*, export or doctor",
        ),
        ("tran run.yaml", "invalid choice: 'tran' .*did you mean 'train'?"),
        ("train", "arguments are required: .*config"),
        ("train none.yaml", "there is no config file none.yaml"),
        ("train run.yaml --training.epoch 3", "did you mean '--training.epochs'?"),
        ("train run.yaml --training.epochs three", "--training.epochs is 'three': expected int"),
        ("train run.yaml --model.name vgg", "--model.name is 'vgg': expected .*'mlp', 'convnet'"),
        ("train run.yaml --training.epochs 0", "epochs is 0: it must be 1 or more"),
        ("train run.yaml --data ./no/where", "there is no data folder ./no/where: give an"),
        ("train run.yaml --n_validation 4000", "n_validation is 4000: of 4000 training images"),
        ("train run.yaml --resume", "no last.ckpt in runs/5-learned-seed-0 to resume from"),
        ("train run.yaml --plan.rules.hidden1.fraction", "--plan.rules.hidden1.fraction needs"),
        ("train run.yaml --plan.rules.hidden1.fraction 2", "fraction is 2.*in (0, 1]"),
        ("train run.yaml --plan.rules.hidden1.fraction 1e-9", "hidden1.*1e-09"),
        ("train run.yaml --plan.rules.hidden1.columns=999", "hidden1.*999 .*200 units"),
        ("train run.yaml --plan.rules.hidden1.grid [28,27]", "hidden1.*28, 27.*784"),
        ("train run.yaml --plan.rules.hidden1.colums 3", "'colums'; did you mean 'columns'?"),
        ("train run.yaml --plan.rules.hiden2 null", "'hiden2' matches no layer.*'hidden2'"),
        (
            "train run.yaml --plan.rules.hidden2.fraction null",
            "'hidden2'.* fraction is None",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(run, tmp_path, arguments, message):
    code, out, err = run(*arguments.split())
    assert code == 2
    assert out == ""
    pattern = ".*".join(map(re.escape, message.split(".*")))
    assert re.fullmatch(rf"weightcast: error: .*{pattern}.*\n", err), err
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_unknown_yaml_keys_are_named_with_the_nearest(run, tmp_path):
    (tmp_path / "run.yaml").write_text("trainig: {epochs: 3}")
    code, _, err = run("train", "run.yaml")
    assert code == 2
    assert "run.yaml: TrainConfig has no field 'trainig'; did you mean 'training'?" in err


def test_options_override_the_file_and_two_runs_do_not_mix(run, tmp_path):
    shorter = ["--training.epochs", 1, "--plan.rules.hidden1.fraction", 0.02, "--output", "mine"]
    code, out, _ = run("train", "run.yaml", *shorter)
    assert code == 0
    [row] = read_rows(tmp_path / "mine" / "row.json")
    assert row["config"]["training"]["epochs"] == 1
    assert row["config"]["plan"]["rules"]["hidden1"]["fraction"] == 0.02
    assert "3,400" in out  # 16 atoms and a bias for each of 200 units

    code, _, err = run("train", "run.yaml", *shorter)
    assert code == 2
    assert "mine holds a run already: continue it with --resume, or choose another folder" in err
    code, _, err = run("train", "run.yaml", *shorter, "--resume")
    assert code == 2
    assert "the run in mine is finished: its results are in mine/row.json" in err
    for remark in (", and now in rows.jsonl, where they were missing", ""):
        code, _, err = run("train", "run.yaml", *shorter, "--resume", "--rows", "rows.jsonl")
        assert code == 2
        assert err.strip().endswith(f"mine/row.json{remark}")
        assert read_rows(tmp_path / "rows.jsonl") == [row]  # once, whatever it was killed between
    (tmp_path / "mine" / "row.json").unlink()
    code, _, err = run("train", "run.yaml", *shorter, "--resume", "--seed", 7)
    assert code == 2
    assert "the run in mine was started with another seed (0, now 7): resume it" in err
    assert run("train", "run.yaml", *shorter, "--resume")[0] == 0  # it is measured again
    assert [row["metrics"]["test_error"]] == [
        again["metrics"]["test_error"] for again in read_rows(tmp_path / "mine" / "row.json")
    ]


@pytest.mark.parametrize("command", [[], ["train"], ["demo"]])
def test_help_is_shown(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in {"train": ["--training.epochs", "--resume"], "demo": ["--seeds"]}.get(
        "".join(command), ["train", "demo"]
    ):
        assert word in out


def test_the_demo_gets_its_options(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(
        "weightcast_lab.cli.demo_command.run_demo", lambda **options: seen.update(options)
    )
    assert main(["demo", "--seeds", "2", "--data", "mnist", "--rows", "r.jsonl"]) == 0
    assert seen == {"seeds": 2, "data": "mnist", "rows": "r.jsonl"}
    assert main(["demo", "--seed", "2"]) == 2
    assert "did you mean '--seeds'?" in capsys.readouterr().err
