"""Rows from files: what is read, what counts once, what is refused and how it is named."""

import json
from pathlib import Path

import pytest

from tests.report_rows import labelled_row
from weightcast_lab.report.results import distinct, located, read_results
from weightcast_lab.report.series import make_lines, samples
from weightcast_lab.studies import figure4, figure5, rica, speech_trials
from weightcast_lab.sweeps.rows import OWN_RATE


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_row(seed=0, error=2.0, **labels):
    return labelled_row("fig4", "SE-Emp", 0.05, seed, error, **{"columns": 10} | labels)


def benchmark_row(**changes):
    return {
        "schema": 1,
        "experiment": "training_step",
        "variant": "dense",
        "config": {"threads": 1},
        "metrics": {"ratio_median": 1.0},
    } | changes


class TestReading:
    def test_rows_know_their_file_and_line(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(make_row()) + "\n\n" + json.dumps(make_row(1)) + "\n")
        first, second = read_results([path])
        assert (first.where, second.where) == (f"{path}, line 1", f"{path}, line 3")
        assert second.row == make_row(1)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (json.dumps(make_row())[:-30], "line 2: no JSON: .*delete the line and run"),
            ("[1]", "line 2: a list, where a row is an object"),
            ('{"schema": 7}', "line 2: schema 7, this weightcast reads schema 1"),
            ('{"schema": 1, "experiment": "fig4"}', "line 2: the row lacks 'variant', 'config'"),
        ],
    )
    def test_names_the_line_that_is_no_row(self, tmp_path, line, message):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(make_row()) + "\n" + line)
        with pytest.raises(ValueError, match=message) as raised:
            read_results([path])
        assert str(path) in str(raised.value)

    def test_names_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match=r"cannot read the rows in .*none\.jsonl: No such"):
            read_results([tmp_path / "none.jsonl"])

    def test_only_the_benchmarks_rows_need_no_data_set(self, tmp_path):
        row = benchmark_row()
        assert read_results([write(tmp_path / "b.jsonl", row)])[0].row == row
        path = write(tmp_path / "c.jsonl", row | {"experiment": "fig4"})
        with pytest.raises(ValueError, match="lacks 'dataset', 'seed', 'counts'"):
            read_results([path])


class TestDistinct:
    def test_a_run_in_two_files_counts_once(self, tmp_path):
        one = write(tmp_path / "one.jsonl", make_row(0), make_row(1))
        again = make_row(1)
        again["metrics"]["train_seconds"] = 9.0
        again["config"]["accelerator"] = "gpu"
        two = write(tmp_path / "two.jsonl", again, make_row(2))
        kept = distinct(read_results([one, two]))
        assert [result.row["seed"] for result in kept] == [0, 1, 2]
        assert kept[1].where == f"{one}, line 2"

    def test_two_results_of_one_run_name_both_lines(self, tmp_path):
        one = write(tmp_path / "one.jsonl", make_row(error=2.0))
        two = write(tmp_path / "two.jsonl", make_row(1), make_row(error=2.5))
        with pytest.raises(ValueError, match=r"one\.jsonl, line 1 and .*two\.jsonl, line 2") as e:
            distinct(read_results([one, two]))
        assert "metrics.test_error (2.0 and 2.5): keep one" in str(e.value)

    def test_one_run_in_two_configurations(self):
        other = make_row()
        other["config"]["training"]["epochs"] = 40
        message = r"row 1 and row 2 hold .* twice.* config\.training\.epochs \(4 and 40\)"
        with pytest.raises(ValueError, match=message):
            distinct(located([make_row(), other]))

    def test_two_seeds_in_two_configurations(self):
        other = make_row(1)
        other["config"]["training"]["epochs"] = 40
        message = r"row 1 and row 2 .* under one name.*epochs \(4 and 40\): report them apart"
        with pytest.raises(ValueError, match=message):
            distinct(located([make_row(), other]))

    def test_other_labels_and_other_data_are_other_runs(self):
        rows = [make_row(), make_row(columns=5, error=3.0), make_row(dataset="digits", error=4.0)]
        assert len(distinct(located(rows))) == 3

    def test_rows_without_labels_are_told_apart_by_variant(self):
        rows = [make_row(), make_row(error=3.0)]
        for row, variant in zip(rows, ("dense", "few"), strict=True):
            del row["labels"]
            row["variant"] = variant
        assert len(distinct(located(rows))) == 2
        rows[1]["variant"] = "dense"
        with pytest.raises(ValueError, match="'dense' of fig4, seed 0 twice"):
            distinct(located(rows))

    def test_benchmarks_are_told_apart_by_their_configuration(self):
        rows = [benchmark_row(), benchmark_row(), benchmark_row(config={"threads": 2})]
        assert len(distinct(located(rows))) == 2
        rows[1] = benchmark_row(metrics={"ratio_median": 2.0})
        with pytest.raises(ValueError, match=r"metrics\.ratio_median \(1\.0 and 2\.0\)"):
            distinct(located(rows))


def trained_row(fraction=0.05, where=(), value=None, **labels):
    """A row of SE-Emp with one entry of its configuration set."""
    row = labelled_row("fig4", "SE-Emp", fraction, 0, 2.0, **labels)
    row["config"] |= {"n_train": None, "n_validation": 0, "standardise": True}
    row["config"]["pretraining"] = {"epochs": 2} if labels.get("pretrained") else None
    inner = row["config"]
    for key in where[:-1]:
        inner = inner[key]
    if where:
        inner[where[-1]] = value
    return row


class TestOneTraining:
    """Points that a line may join, or that stand in one chart, were trained alike."""

    @pytest.mark.parametrize(
        ("where", "value", "difference"),
        [
            (("training", "epochs"), 30, r"config\.training\.epochs \(4 and 30\)"),
            (("n_train",), 500, r"config\.n_train \(None and 500\)"),
            (("n_validation",), 10, r"config\.n_validation \(0 and 10\)"),
            (("standardise",), False, r"config\.standardise \(True and False\)"),
        ],
    )
    @pytest.mark.parametrize("labels", [{}, {"activation": "sigmoid"}, {"curve": "dense"}])
    def test_names_both_rows_and_the_entry_that_differs(
        self, tmp_path, where, value, difference, labels
    ):
        other = trained_row(0.1, where, value)
        other["labels"] |= labels
        one = write(tmp_path / "one.jsonl", trained_row())
        two = write(tmp_path / "two.jsonl", trained_row(0.02), other)
        message = (
            rf"one\.jsonl, line 1 and .*two\.jsonl, line 2 .*{difference}: "
            "report such files apart, or give one of them a label"
        )
        with pytest.raises(ValueError, match=message):
            distinct(read_results([one, two]))

    def test_pretraining_is_compared_among_the_pretrained(self):
        here = ("pretraining", "epochs")
        rows = [trained_row(), trained_row(pretrained=True), trained_row(0.1, pretrained=True)]
        assert len(distinct(located(rows))) == 3
        rows.append(trained_row(0.25, here, 10, pretrained=True))
        message = r"row 2 and row 4 .*config\.pretraining\.epochs \(2 and 10\)"
        with pytest.raises(ValueError, match=message):
            distinct(located(rows))

    def test_rates_may_differ_where_each_curve_chose_its_own(self):
        faster = ("training", "learning_rate")
        rows = [trained_row(**OWN_RATE), trained_row(0.1, faster, 0.5, **OWN_RATE)]
        assert len(make_lines(samples(distinct(located(rows))))) == 1
        rows = [trained_row(), trained_row(0.1, faster, 0.5)]
        with pytest.raises(ValueError, match=r"config\.training\.learning_rate \(.* and 0\.5\)"):
            distinct(located(rows))

    @pytest.mark.parametrize("other", [{"passes": 30}, {"dataset": "digits"}])
    def test_a_label_or_other_data_keep_them_apart(self, other):
        rows = [trained_row(), trained_row(0.1, ("training", "epochs"), 30, **other)]
        assert len(make_lines(samples(distinct(located(rows))))) == 2

    def test_only_what_both_rows_say_is_compared(self):
        older = trained_row(0.1)
        del older["config"]["n_train"]
        rows = [trained_row(where=("n_train",), value=500), older]
        assert len(distinct(located(rows))) == 2

    def test_rows_that_no_line_joins_may_be_trained_differently(self):
        rows = [trained_row(), trained_row(where=("training", "epochs"), value=30)]
        for row, variant in zip(rows, ("dense", "few"), strict=True):
            del row["labels"]
            row["variant"] = variant
        assert len(distinct(located(rows))) == 2

    @pytest.mark.parametrize(
        ("module", "data"),
        [(figure4, "mnist"), (figure5, "cifar10"), (speech_trials, "fsdd"), (rica, "cifar10")],
    )
    def test_our_own_experiments_pass(self, module, data):
        configs = [trial.config for trial in module.trials("cpu", 1, data)]
        rows = [
            {
                "experiment": config.experiment,
                "variant": config.variant,
                "dataset": config.data,
                "seed": config.seed,
                "labels": config.labels,
                "config": config.to_dict(),
            }
            for config in configs
        ]
        assert len(distinct(located(rows))) == len(rows)


def test_all_our_rows_can_be_reported_together():
    files = sorted((Path(__file__).parents[2] / "results").glob("*.jsonl"))
    assert distinct(read_results(files))
