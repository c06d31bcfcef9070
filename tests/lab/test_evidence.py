"""The evidence queue: what is in it, in which order, and how it is called."""

import itertools
import sys
from pathlib import Path

import pytest

from weightcast_lab.studies import evidence
from weightcast_lab.studies.adapting.ideas import BEST, DEFAULT, IDEAS
from weightcast_lab.studies.adapting.on_glosses import AdaptConfig
from weightcast_lab.studies.adapting.on_pictures import PicturesConfig
from weightcast_lab.studies.adapting.on_plays import PlaysConfig
from weightcast_lab.studies.adapting.on_voices import VoicesConfig
from weightcast_lab.studies.deep.ways import BEST_FOR_IMAGES, PEERS, ideas_for
from weightcast_lab.sweeps.backlog import CHOICES
from weightcast_lab.sweeps.rows import read_rows

RESULTS = Path(__file__).parents[2] / "results"
CELLS = evidence.cells()
NAMES = [cell.name for cell in CELLS]
TRAINED = [cell for cell in CELLS if not cell.name.startswith(("adapt", "idea", "deep"))]
DEEP_IDEAS = [cell for cell in CELLS if cell.name.startswith("deep idea")]
DEEP_PEERS = [cell for cell in CELLS if cell.name.startswith("deep peers")]
ADAPTED = [cell for cell in CELLS if cell.name.startswith("adapt")]
TRIED = [cell for cell in CELLS if cell.name.startswith("idea")]
FILES = {CHOICES, *(cell.file for cell in CELLS)}


def rows_that_choose(cell, best):
    """As after its choices, of which one rate was best."""
    return {
        trial.key: {"metrics": {cell.criterion: 0.0 if rate == best else 1.0}}
        for rate, trial in cell.offered.items()
    }


def runs(cell):
    """The runs at the second rate that is tried."""
    rows = rows_that_choose(cell, sorted(cell.choices)[1] if cell.choices else None)
    return cell.trials(rows)[len(cell.tried(rows)) :]


def test_what_decides_the_papers_claim_comes_first():
    assert NAMES[:2] == ["figure 4, dense, 100 %", "figure 4, SE-AE, 5 %"]
    assert len(set(NAMES)) == len(NAMES)
    assert all(cell.why[-1] in ".?" for cell in CELLS)
    figure4 = [name.rpartition(", ")[2] for name in NAMES if name.startswith("figure 4")]
    assert figure4 == ["100 %"] + ["5 %"] * 7 + ["2 %"] * 7 + ["10 %"] * 7 + ["25 %"] * 7


def test_everything_that_was_asked_for_is_there():
    pairs = [*evidence.PAIRS, "Local-Grouped"]
    assert {name for name in NAMES if name.startswith("figure 4")} == {
        "figure 4, dense, 100 %",
        *(f"figure 4, {pair}, {share} %" for pair in pairs for share in (2, 5, 10, 25)),
    }
    kinds = ("single inputs", "informed", "random", "narrow")
    for network, more in (("resnet20", ("cosines",)), ("gpt", ())):
        curves = [f"{c}, {share} %" for c in (*kinds, *more) for share in (25, 50)]
        assert {name for name in NAMES if name.startswith(network)} == {
            f"{network}, {curve}" for curve in ["dense, 100 %", *curves]
        }
    pairs = ("Emp-Emp leading", "SE-Emp", "RandFixU-RandFixU", "narrow")
    points = ["dense, 100 %", *(f"{pair}, {share} %" for pair in pairs for share in (25, 10))]
    figure5 = {cell.name: cell for cell in CELLS if cell.name.startswith("figure 5")}
    assert figure5.keys() == {
        f"figure 5, {point}, {epochs} epochs" for point in points for epochs in (10, 60)
    }
    for name, cell in figure5.items():
        long = name.endswith("60 epochs")
        assert cell.gpu is long
        assert {(t.config.n_train, t.config.training.epochs) for t in runs(cell)} == {
            (None, 60 if long else 10)
        }
        assert len(runs(cell)) == (3 if long else 1)


@pytest.mark.parametrize("cell", [cell for cell in TRAINED if cell.choices], ids=lambda c: c.name)
def test_choices_and_runs_are_one_training_but_for_data_rate_and_seed(cell):
    assert [trial.config.seed for trial in runs(cell)] == [0, 1, 2]
    rate = sorted(cell.choices)[1]
    assert {trial.config.training.learning_rate for trial in runs(cell)} == {rate}
    for tried, trial in cell.choices.items():
        chooses, run = trial.config, runs(cell)[0].config
        assert trial.kind == "choice"
        assert chooses.training.learning_rate == tried
        assert chooses.n_validation > 0
        assert chooses.seed == 0
        assert chooses.experiment == f"{run.experiment}-validation"
        assert (chooses.training.epochs, chooses.pretraining) == (
            run.training.epochs,
            run.pretraining,
        )
        assert chooses.labels["curve"] == run.labels["curve"]


def test_figure_4_is_trained_as_the_issue_says():
    for cell in CELLS:
        if cell.name.startswith("figure 4"):
            for trial in runs(cell):
                config = trial.config
                assert config.model.activation == "sigmoid"
                assert config.pretraining.epochs == 10
                assert (config.training.epochs, config.training.schedule) == (40, "one-cycle")
                assert config.n_validation == 0
                assert config.n_train is None
                assert config.labels.get("columns", 10) == 10


@pytest.mark.parametrize("cell", ADAPTED, ids=lambda c: c.name)
def test_adapters_are_chosen_and_run_alike(cell):
    kind, config = runs(cell)[0].kind, runs(cell)[0].config
    method = config.methods[config.method]
    assert sorted(cell.choices) == list(method.rates)
    assert [trial.config.seed for trial in runs(cell)] == list(range(config.n_seeds))
    for rate, trial in cell.choices.items():
        run = runs(cell)[0]
        assert (trial.kind, run.kind) == (f"{kind}-choice", kind)
        assert (trial.config.rate, trial.config.seed) == (rate, 0)
        assert trial.config.method == run.config.method
        assert trial.config.learned == run.config.learned
        assert trial.config.labels == run.config.labels
        assert trial.config.experiment == f"{run.config.experiment}-validation"


def test_every_method_is_adapted_at_every_size_that_it_has():
    configs = [runs(cell)[0].config for cell in ADAPTED]
    found = [(type(config), config.method, config.learned) for config in configs]
    assert len(set(found)) == len(found)
    assert set(found) == {
        (kind, name, size)
        for kind in (AdaptConfig, PlaysConfig, VoicesConfig, PicturesConfig)
        for name, method in kind.methods.items()
        for size in method.settings
    }


@pytest.mark.parametrize("cell", TRIED, ids=lambda c: c.name)
def test_ideas_are_tried_at_each_rate_and_the_best_with_three_seeds(cell):
    name = cell.name.removeprefix("idea, ")
    rates = IDEAS[name].rates
    assert len(rates) == 3
    trials = cell.trials(rows_that_choose(cell, rates[1]))
    more = [(rates[1], 1), (rates[1], 2)] if name in (DEFAULT, *BEST) else []
    assert [(t.config.rate, t.config.seed) for t in trials] == [*((r, 0) for r in rates), *more]
    assert {(t.kind, t.config.method, t.config.learned) for t in trials} == {
        ("adapt-idea", name, 82_944)
    }
    assert all(t.config.labels == {"idea": name, "rate": t.config.rate} for t in trials)


def test_ideas_come_between_what_is_compared_most_often_and_the_rest():
    assert [cell.name for cell in TRIED] == [f"idea, {name}" for name in IDEAS]
    start = NAMES.index(TRIED[0].name)
    assert NAMES[start - 1] == "adapt, full fine-tuning"
    assert NAMES[start + len(TRIED)] == "adapt, weightcast, 32 columns, 20,736"
    assert set(BEST) < set(IDEAS)


def test_rates_are_chosen_by_what_is_aimed_at():
    criteria = {cell.name.split(",")[0]: cell.criterion for cell in TRAINED if cell.choices}
    assert criteria == {
        "figure 4": "validation_error", "resnet20": "validation_error", "gpt": "validation_loss",
    }  # fmt: skip


def test_ideas_for_deep_networks_are_tried_on_validation_data_alone():
    for network in evidence.MODERN_CURVES:
        own = [cell for cell in DEEP_IDEAS if network in cell.name]
        assert [cell.name for cell in own] == [
            f"deep idea, {network}, {name}" for name in ideas_for(network)
        ]
        assert len(own) > 10
        for cell in own:
            for rate, trial in cell.choices.items():
                config = trial.config
                assert (trial.kind, config.seed, config.fraction) == ("deep-choice", 0, 0.25)
                assert config.experiment.endswith("-validation")
                assert config.training.learning_rate == rate
                assert config.n_validation > 0
                assert config.model.name == network


def test_the_best_ideas_for_images_run_with_three_seeds():
    run = {cell.name: [t.config for t in runs(cell)] for cell in DEEP_IDEAS if runs(cell)}
    assert list(run) == [
        f"deep idea, resnet20, {name}" for name in ideas_for("resnet20") if name in BEST_FOR_IMAGES
    ]
    for configs in run.values():
        assert [config.seed for config in configs] == [0, 1, 2]
        assert {config.training.learning_rate for config in configs} == {0.032}
        assert {config.experiment for config in configs} == {"evidence-deep-ideas-resnet20"}


def test_others_ways_run_at_three_shares_at_a_rate_of_their_own():
    shares = {}
    for cell in DEEP_PEERS:
        one, *_ = made = [trial.config for trial in runs(cell)]
        assert [config.seed for config in made] == [0, 1, 2]
        shares.setdefault(one.way, []).append(one.fraction)
        choices = [trial.config for trial in cell.choices.values()]
        assert {(c.way, c.seed) for c in choices} == {(one.way, 0)}
        assert {c.fraction for c in choices} == {1.0 if one.way is None else 0.2}
        assert one.training.learning_rate == sorted(cell.choices)[1]
    assert shares == {None: [1.0]} | {key: [0.1, 0.2, 0.3] for key in PEERS}


def test_modern_networks_are_trained_longer():
    for cell in TRAINED:
        for trial in runs(cell):
            if trial.config.model.name == "resnet20":
                assert (trial.config.training.epochs, trial.config.n_train) == (30, 10_000)
            if trial.config.model.name == "gpt":
                assert (trial.config.training.epochs, trial.config.n_train) == (4, 12_000)


def test_no_two_trials_are_told_apart_by_nothing():
    """Cells may share what chooses their rate, and nothing else."""
    choices = {t.key for cell in CELLS for t in cell.choices.values()}
    all_runs = [trial for cell in CELLS for trial in runs(cell)]
    assert len({trial.key for trial in all_runs}) == len(all_runs)
    kinds = (AdaptConfig, PlaysConfig, VoicesConfig, PicturesConfig)
    methods = [method for kind in kinds for method in kind.methods.values()]
    adapted = sum(len(method.settings) * len(method.rates) for method in methods)
    deep = 2 * len(DEEP_IDEAS) + 5 * (1 + len(PEERS))
    assert len(choices) == 4 * 8 + 3 * 11 + 3 * 9 + adapted + 3 * len(IDEAS) + deep
    names = [
        (t.config.experiment, t.config.variant, t.config.seed)
        for t in itertools.chain(
            all_runs, {t.key: t for c in CELLS for t in c.choices.values()}.values()
        )
    ]
    assert len(set(names)) == len(names)


def test_no_committed_row_is_of_a_rate_that_was_not_chosen():
    """A rate beyond the first ones may win later: rows of the one before it must go then."""
    files = [path for path in RESULTS.iterdir() if path.name in FILES]
    rows = {row["trial"]: row for path in files for row in read_rows(path)}
    chosen = [cell for cell in CELLS if cell.rate(rows) is not None]
    assert len(chosen) > 20
    for cell in chosen:
        kept = {trial.key for trial in cell.trials(rows)}
        others = {trial.key for rate in cell.offered for trial in cell.make(rate)} - kept
        assert not others & rows.keys(), cell.name


def call(monkeypatch, tmp_path, *arguments):
    places = ["--root", str(tmp_path / "root"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["evidence", *arguments, *places])
    evidence.main()


def test_the_list_needs_no_data_and_changes_nothing(monkeypatch, tmp_path, capsys):
    call(monkeypatch, tmp_path, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.strip().startswith("0/") for line in lines) == len(CELLS)
    missing = len({t.key for c in CELLS if not c.gpu for t in (*c.choices.values(), *runs(c))})
    assert lines[-1].endswith(
        f"0.0 hours of one core are left, and {missing} trials of unknown length"
    )
    assert not (tmp_path / "results").exists()
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["rows.lock"]


def test_some_cells_alone_are_listed(monkeypatch, tmp_path, capsys):
    call(monkeypatch, tmp_path, "--list", "--cells", "resnet20, informed")
    lines = [line for line in capsys.readouterr().out.splitlines() if "0/" in line]
    assert ["resnet20, informed" in line for line in lines] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no data: say where they lie with --data NAME=PLACE, of mnist, CIFAR-10"),
        (("--data", "mnist=./no/where"), "there is no data folder"),
        (("--cells", "no such"), "no cell has 'no such' in its name: --list shows the names"),
        (("--cells", "adapt-voices", "--data", "mnist=x"), "with --data NAME=PLACE, of fsdd"),
        (("--minutes", "0"), "--minutes is 0.0 and --jobs None: take more than 0"),
        (("--jobs", "0"), "--jobs 0: take more than 0"),
    ],
)
def test_a_call_that_cannot_work_says_what_to_do(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.setattr(evidence, "_give_way", lambda: None)  # these tests keep their priority
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, tmp_path, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
