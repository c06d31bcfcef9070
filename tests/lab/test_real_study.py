"""The study of networks that others trained, run on a small one that is trained here."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import weightcast as wc
from weightcast.layers import PredictedLayer
from weightcast.plan.suggest import offers_for
from weightcast_lab.studies import compress_real, distil_real
from weightcast_lab.studies.real.audio_tasks import equal_error_rate
from weightcast_lab.studies.real.compressors import wanda
from weightcast_lab.studies.real.task import Task, equal_lengths


class Digits(Task):
    """scikit-learn's 8 x 8 digits, two layers."""

    name, dataset = "digits", "scikit-learn's digits"

    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images, self.labels = torch.tensor(images).float() / 16, torch.tensor(labels)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        optimiser = torch.optim.Adam(self.model.parameters(), 1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            logits = self.model(self.images[:1200])
            nn.functional.cross_entropy(logits, self.labels[:1200]).backward()
            optimiser.step()
        self.modules = ["0", "2"]

    def calibration(self, draw):
        return list(self.images[100 * draw :][:400].split(100))

    @torch.no_grad()
    def evaluate(self, model):
        wrong = model(self.images[1200:]).argmax(1) != self.labels[1200:]
        return {"test_error": 100 * float(wrong.float().mean())}


PEERS = list(compress_real.PEERS)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command, on that network alone; it gives the rows of the file."""
    monkeypatch.setattr(compress_real, "TASKS", {"digits": lambda _: Digits()})
    file = tmp_path / "rows.jsonl"

    def run(*options):
        monkeypatch.setattr(
            sys, "argv", ["x", "--rows", str(file), "--networks", "digits", "--methods", *options]
        )
        compress_real.main()
        return [json.loads(line) for line in file.read_text().splitlines()]

    return run


def test_rows_are_made_once_and_tell_bytes_and_errors(run, capsys):
    rows = run("truncated SVD", "whitened SVD", "int8 by groups")
    assert len(rows) == 1 + 3 + 3 * 3 + 1
    assert len({(row["variant"], row["seed"]) for row in rows}) == len(rows)
    assert run("truncated SVD", "whitened SVD", "int8 by groups") == rows
    dense = rows[0]["metrics"]["test_error"]
    assert dense < 10
    for row in rows[1:]:
        assert row["counts"]["dense"] == 64 * 96 + 96 * 10
        share = row["counts"]["bytes"] / (4 * row["counts"]["dense"])
        assert share <= row["labels"]["fraction"] + 1e-4
        assert row["metrics"]["seconds"] > 0
    error = {row["variant"]: row["metrics"]["test_error"] for row in rows}
    assert error["digits, int8 by groups"] == pytest.approx(dense, abs=0.5)
    assert error["digits, truncated SVD, 80 %"] > error["digits, whitened SVD, 80 %"] + 2
    print(compress_real.table(rows, "digits"))
    assert "| whitened SVD | " in capsys.readouterr().out


def test_ours_is_counted_by_its_ledger():
    study = compress_real.Study(Digits())
    row = study.row(compress_real.Cell(compress_real.OURS, 0.6, 0))
    counts = row["counts"]
    assert counts["stored"] < 0.6 * counts["dense"]
    assert 0.3 < counts["bytes"] / (4 * counts["dense"]) <= 0.6
    assert counts["bytes_16_bit"] == counts["bytes"] - 2 * counts["stored"]
    assert row["metrics"]["test_error"] < 60


def test_what_dictionaries_lose_is_found_once_for_all_budgets_of_a_draw(monkeypatch):
    study, asked = compress_real.Study(Digits()), []
    monkeypatch.setattr(
        compress_real, "offers_for", lambda *a, **k: asked.append(a) or offers_for(*a, **k)
    )
    cells = [(0.6, 0), (0.4, 0), (0.6, 1)]
    found = [study.row(compress_real.Cell(compress_real.OURS, *cell)) for cell in cells]
    assert len(asked) == 2
    dense = study.task.model
    budget = compress_real.budget_for(wc.ledger(dense).total.stored, study.n_weights, 0.4)
    small = wc.compress(dense, inputs=study.task.calibration(0), budget=budget, progress=False)
    assert study.task.evaluate(small)["test_error"] == found[1]["metrics"]["test_error"]


def test_the_network_is_left_as_it_was():
    study = compress_real.Study(Digits())
    before = [p.clone() for p in study.task.model.parameters()]
    row = study.row(compress_real.Cell("sparse atoms by Procrustes", 0.4, 0))
    assert row["labels"]["fraction"] == 0.4
    assert all(map(torch.equal, before, study.task.model.parameters()))


def test_wanda_is_the_same_network_as_sparse_atoms():
    task = Digits()
    dense = [p.clone() for p in task.model.parameters()]
    small = distil_real.by_wanda(task, 0)
    assert all(map(torch.equal, dense, task.model.parameters()))
    found = compress_real.gather(task.model, task.modules, task.calibration(0))
    for matrix in found:
        W, _ = wanda(matrix.W, matrix.moments(), distil_real.SHARE)
        layer = small.get_submodule(matrix.name)
        assert isinstance(layer, PredictedLayer)
        assert torch.equal(layer.weight.mT, W)


@pytest.mark.parametrize("way", distil_real.WAYS)
def test_distilling_brings_errors_back(way, tmp_path, monkeypatch):
    monkeypatch.setattr(distil_real, "TASKS", {"digits": lambda _: Digits()})
    monkeypatch.setattr(distil_real, "NETWORKS", ("digits",))
    monkeypatch.setattr(distil_real, "DRAWS", (0,))
    monkeypatch.setattr(distil_real, "WAYS", {way: distil_real.WAYS[way]})
    file = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["x", "--rows", str(file), "--networks", "digits"])
    distil_real.main()
    distil_real.main()
    (row,) = map(json.loads, file.read_text().splitlines())
    assert row["counts"]["stored"] < 0.45 * row["counts"]["dense"]
    assert row["metrics"]["last_loss"] < row["metrics"]["first_loss"]
    assert row["metrics"]["test_error"] <= row["metrics"]["test_error_before"]


def test_the_equal_error_rate_is_where_both_kinds_of_error_are_as_many():
    scores, same = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1]), np.array([1, 1, 1, 0, 0, 0])
    assert equal_error_rate(scores, same) == pytest.approx(1 / 3)
    assert equal_error_rate(scores, scores > 0.5) == 0


def test_batches_of_one_length_hold_every_sequence_once():
    sequences = [[1, 2], [3, 4, 5], [6, 7], [8, 9], [10]]
    batches = equal_lengths(sequences, 4)
    assert {
        place: x.tolist() for places, xs in batches for place, x in zip(places, xs, strict=True)
    } == (dict(enumerate(sequences)))
    assert max(x.numel() for _, x in batches) <= 4
