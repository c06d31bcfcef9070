"""studies/windows_validation: the notation of the committed table, and its lines run anew."""

import csv
from pathlib import Path

import pytest
import torch

from tests.lab.here import sweep_here
from weightcast.dictionaries import Kernel, LocalKernel, RandomConnections, RandomGaussian
from weightcast.grid import Grid
from weightcast.kernels import Matern, SquaredExponential
from weightcast.layers.counts import ledger
from weightcast_lab.studies import windows_validation as study
from weightcast_lab.training import Images, save_images
from weightcast_lab.training.build import build_model

TABLE = Path("results/windows_validation.csv")
LOCAL = "loceig C20, n39, w 1.5, ls 3.0, pow 0.25, cen strat"
GROUPED = "onehot C20, n25, pos grouped"
USUAL = "lr 0.002, ls 0.1, global, wd 0.01"


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (140, 1, 28, 28), generator=generator) / 255
    y = torch.arange(140) % 10
    return Images("noise", (x[:100], y[:100]), None, (x[100:], y[100:]), 10)


@pytest.mark.parametrize(
    ("text", "dictionary"),
    [
        (LOCAL, LocalKernel(SquaredExponential(3.0), 1.5, power=0.25, margin=4.0)),
        ("se C20, n39, ls 2.0, mixing ridge", Kernel(SquaredExponential(2.0))),
        ("se C20, n39, ls 2.0, mixing raw", Kernel(SquaredExponential(2.0), mixing="raw")),
        ("m52 C20, n39, ls 2.0, mixing ridge", Kernel(Matern(2.5, 2.0))),
        ("orthob C20, n39", RandomGaussian("orthonormal")),
        ("onehot C20, n39, pos grouped", RandomConnections("grouped")),
        ("onehot C20, n39, pos deal", None),
        ("se C20, n39, ls 2.0, mixing ridge, pos win14", None),
        ("se C20, n39, ls [1.0, 2.0, 4.0], mixing ridge", None),
        ("loceig C20, n39, w 2.0, ls 2.0", None),
    ],
)
def test_the_notation_is_read(text, dictionary):
    rule = study.read_layer(text, 784, Grid((28, 28)))
    assert (rule and rule.dictionary) == dictionary
    if rule is not None:
        assert (rule.fraction, rule.columns) == (39 / 784, 20)


def test_lines_learn_as_many_weights_as_the_table_says(images):
    known = [line for line in read(TABLE) if study.make_config(line, 0, "mnist") is not None]
    assert len(known) == 203
    by_network = {(line["layer1"], line["layer2"], line["learned"]): line for line in known}
    checked = list(by_network.values())[::12]
    assert len(checked) > 8
    for line in checked:
        config = study.make_config(line, 0, "mnist")
        assert f"{ledger(build_model(config, images)).total.learned:,}" == line["learned"]


def test_lines_are_run_anew_without_the_test_digits(images, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "EPOCHS", 1)
    monkeypatch.setattr(study, "N_VALIDATION", 20)
    chosen = [
        line
        for line in read(TABLE)
        if line["optimiser"] == USUAL
        and (line["layer1"], line["layer2"]) in ((LOCAL, GROUPED), ("dense", "dense"))
    ]
    with (tmp_path / "lines").open("w", newline="") as file:
        writer = csv.DictWriter(file, chosen[0])
        writer.writeheader()
        writer.writerows(chosen)
    data = save_images(images, tmp_path / "noise.safetensors")
    command = f"--data {data} --lines {tmp_path}/lines --table {tmp_path}/table --seeds 2"
    monkeypatch.setattr("sys.argv", ["study", *command.split(), "--output", f"{tmp_path}/runs"])
    monkeypatch.setattr(study, "sweep", sweep_here)
    study.main()
    found = read(tmp_path / "table")
    told = ("regime", "round", "learned", "layer1", "layer2", "optimiser")
    assert [[line[name] for name in told] for line in found] == [
        [line[name] for name in told] for line in chosen
    ]
    assert {line["n"] for line in found} == {"2"}
    assert all(0 < float(line["error_percent"]) <= 100 for line in found)
