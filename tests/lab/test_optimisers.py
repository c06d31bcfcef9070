"""studies/optimisers: rates and decays go where they belong, and no run is made twice."""

from __future__ import annotations

import pytest
import torch

from weightcast_lab.studies import optimisers
from weightcast_lab.studies.optimisers import DENSE_RATE, SCALED, Run
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import load_images


@pytest.fixture(scope="module")
def images():
    return load_images("digits", n_validation=800).fewer(200).standardised()


def groups_of(model, made):
    """Each parameter's name, with its optimiser's class and its group."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (type(o), group)
        for o in made
        for group in o.param_groups
        for p in group["params"]
    }


def test_every_parameter_has_one_rate_and_decay(images):
    run = Run("windows", "muon", SCALED, 0.01, weight_decay=0.5, decayed="matrices")
    model = optimisers.make_network(run, images)
    groups = groups_of(model, optimisers.make_optimisers(model, run))
    assert groups.keys() == dict(model.named_parameters()).keys()
    in_muon = {name for name, (kind, _) in groups.items() if kind is torch.optim.Muon}
    assert in_muon == {"hidden1.V", "hidden2.V"}
    assert groups["head.weight"][1]["lr"] == 0.01
    for name, (_, group) in groups.items():
        expected = 0.01 * 0.5 if "V" in name or name == "head.weight" else 0.0
        assert group["lr"] * group["weight_decay"] == pytest.approx(expected)


def test_the_rules_differ_in_the_rate_of_v_alone(images):
    rates = {}
    for rule in (DENSE_RATE, SCALED):
        run = Run("windows", "adamw", rule, 0.01)
        model = optimisers.make_network(run, images)
        groups = groups_of(model, optimisers.make_optimisers(model, run))
        rates[rule] = {name: group["lr"] for name, (_, group) in groups.items()}
    differ = {name for name in rates[SCALED] if rates[SCALED][name] != rates[DENSE_RATE][name]}
    assert differ == {"hidden1.V", "hidden2.V"}


def test_what_is_in_the_file_is_not_trained_again(images, monkeypatch, tmp_path):
    file, one = tmp_path / "rows.jsonl", Run("windows", "sgd", SCALED, 0.05)
    monkeypatch.setattr(optimisers, "EPOCHS", 1)
    monkeypatch.setattr(optimisers, "load_images", lambda *_, **__: images)
    monkeypatch.setattr(optimisers, "runs", lambda seeds: iter([one] * (seeds > 0)))
    table = tmp_path / "table.csv"
    monkeypatch.setattr("sys.argv", ["o", "--rows", str(file), "--table", str(table)])
    optimisers.main()
    [row] = read_rows(file)
    assert row["variant"] == one.variant
    assert row["metrics"].keys() == {"validation_error"}  # the test images are not read
    assert 0 < row["metrics"]["validation_error"] < 90
    head, line = table.read_text().splitlines()
    assert head.startswith("network,optimiser,rule,learning_rate")
    assert line.startswith("windows,sgd,scaled,0.05,0.01,all,0,")
    optimisers.main()
    assert len(read_rows(file)) == 1
