"""Figures from labelled rows: means and spreads against NumPy, settings, charts, files."""

import html
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from itertools import product

import numpy as np
import pytest

from tests.report_rows import CURVES, FRACTIONS, all_rows, curve_rows, labelled_row
from weightcast_lab import report
from weightcast_lab.cli.report_command import run_report
from weightcast_lab.report import document
from weightcast_lab.report.figures import LinesFigure, make_figures, slug
from weightcast_lab.report.lines_chart import DATA, chart_values, is_log, lines_chart, styles
from weightcast_lab.report.results import distinct, located
from weightcast_lab.report.sections import chart, section
from weightcast_lab.report.series import ShownMetric, make_lines, most_common, samples, varying
from weightcast_lab.report.write import picture

EVIL = "</script><img src=x onerror=alert(1)>\"'&"
ERROR = ShownMetric("test_error", "test error, %")


@pytest.fixture(autouse=True)
def _short_bundle(monkeypatch):
    """The real Vega takes a second to bundle; the browser's tests load it."""
    monkeypatch.setattr(document.vl_convert, "javascript_bundle", lambda snippet: "vegaEmbed = f")


def lines_of(rows):
    return make_lines(samples(distinct(located(rows))))


def simple_rows(**labels):
    return [
        labelled_row("fig4", curve, fraction, seed, error + seed, **labels)
        for curve, fraction, error in (("SE-Emp", 0.05, 3.0), ("SE-Emp", 0.1, 2.0))
        for seed in (0, 1)
    ] + [labelled_row("fig4", "dense", 1.0, 0, 1.0)]


class TestLines:
    def test_means_and_spreads_are_those_of_numpy(self):
        rows = curve_rows("fig4", np.random.default_rng(3))
        found = {
            (line.curve, point.fraction): point
            for line in lines_of(rows)
            if line.fits({"columns": "10", "activation": "relu"})
            for point in line.points["test_error"]
        }
        assert set(found) == {*product(CURVES, FRACTIONS), ("dense", 1.0)}
        for (curve, fraction), point in found.items():
            errors = [
                row["metrics"]["test_error"]
                for row in rows
                if row["labels"]["curve"] == curve
                and row["labels"]["fraction"] == fraction
                and row["labels"].get("columns", 10) == 10
                and row["labels"]["activation"] == "relu"
            ]
            assert point.seeds == (0, 1, 2)
            assert point.mean == pytest.approx(np.mean(errors))
            assert point.spread == pytest.approx(np.std(errors, ddof=1))

    @pytest.mark.parametrize(
        "other",
        [{"columns": 5}, {"activation": "relu"}, {"pretrained": True}, {"dataset": "digits"}],
    )
    def test_settings_never_share_a_mean(self, other):
        setting = {"columns": 1, "activation": "sigmoid", "pretrained": False, "dataset": "mnist"}
        rows = [
            labelled_row("fig4", "SE-Emp", 0.05, seed, error, **labels)
            for labels, error in ((setting, 2.0), (setting | other, 8.0))
            for seed in (0, 1)
        ]
        lines = lines_of(rows)
        assert sorted(line.points["test_error"][0].mean for line in lines) == [2.0, 8.0]
        (name,) = varying(lines)
        assert name == next(iter(other)).replace("dataset", "data")

    def test_the_papers_curves_come_in_its_order_and_others_by_name(self):
        names = ["Wavelet-Wavelet", "Emp-Emp", "SE-Emp", "DCT-DCT", "LowRank", "dense"]
        lines = lines_of([labelled_row("fig4", name, 0.5, 0, 1.0) for name in names])
        assert [line.curve for line in lines] == [
            "dense",
            "LowRank",
            "SE-Emp",
            "Emp-Emp",
            "DCT-DCT",
            "Wavelet-Wavelet",
        ]

    def test_a_setting_that_is_not_said_fits_all(self):
        lines = lines_of([*simple_rows(columns=1), labelled_row("fig4", "SE-Emp", 0.2, 0, 1.5)])
        fits = {line.settings.get("columns"): line.fits({"columns": "5"}) for line in lines}
        assert fits == {None: True, "1": False}

    def test_the_most_common_setting_is_shown_first(self):
        rows = curve_rows("fig4", np.random.default_rng(0))
        lines = lines_of(rows)
        assert varying(lines) == {"columns": ["1", "10", "20"], "activation": ["relu", "sigmoid"]}
        assert most_common(lines) == {"columns": "10", "activation": "relu"}

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("labels", "fraction"), None, r"row 1 has no|labels\.fraction is None"),
            (("labels", "fraction"), 5, r"row 1: labels\.fraction is 5: it is a share"),
            (("labels", "fraction"), 0.0, r"row 1: labels\.fraction is 0"),
            (("metrics", "test_error"), "3 %", r"row 1: metrics\.test_error is '3 %', not a fin"),
            (("metrics", "test_error"), math.nan, r"metrics\.test_error is nan"),
            (("seed",), "zero", r"row 1: seed is 'zero'"),
        ],
    )
    def test_names_the_row_and_what_is_wrong_with_it(self, path, value, message):
        row = labelled_row("fig4", "SE-Emp", 0.05, 0, 1.0)
        inner = row
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(ValueError, match=message):
            lines_of([row])

    @pytest.mark.parametrize(("group", "key"), [("labels", "curve"), ("metrics", "test_error")])
    def test_names_what_a_row_lacks(self, group, key):
        row = labelled_row("fig4", "SE-Emp", 0.05, 0, 1.0)
        del row[group][key]
        with pytest.raises(ValueError, match=rf"row 1 has no '{group}\.{key}'"):
            make_figures(located([row]))


class TestChart:
    def spec(self, rows):
        lines = lines_of(rows)
        return lines_chart(lines, ERROR, "share", styles(lines))

    def test_holds_means_with_one_standard_deviation_to_either_side(self):
        values = self.spec(simple_rows())["datasets"][DATA]
        low, high = (next(v for v in values if v["share"] == share) for share in (5, 10))
        assert (low["mean"], high["mean"]) == (3.5, 2.5)
        assert low["high"] - low["mean"] == pytest.approx(math.sqrt(0.5))
        assert low["mean"] - low["low"] == pytest.approx(math.sqrt(0.5))
        assert low["text"] == "3.50 ± 0.71"
        assert [v["reference"] for v in values if v["curve"] == "dense"] == [True]

    def test_errors_far_apart_are_drawn_on_a_logarithm(self):
        assert not is_log([1.0, 2.0])
        assert not is_log([0.0, 20.0])
        assert not is_log([])
        assert is_log([1.0, 20.0])
        rows = [
            labelled_row("fig4", "SE-Emp", f, s, e + s)
            for f, e in ((0.1, 1), (0.01, 90))
            for s in (0, 3)
        ]
        spec = self.spec(rows)
        assert '"type": "log"' in json.dumps(spec["layer"][0])
        assert all(value["low"] > 0 for value in spec["datasets"][DATA])

    @pytest.mark.parametrize(
        ("fractions", "ticks"),
        [
            ((0.01, 0.07, 0.25), [1, 7, 25]),  # 100 times 0.07 is a little more than 7
            ((0.01, 0.02, 0.035, 0.05, 0.075, 0.15, 0.25), [1, 2, 5, 10, 20]),
        ],
    )
    def test_an_axis_is_marked_at_its_shares_or_where_they_are_many_at_round_ones(
        self, fractions, ticks
    ):
        spec = self.spec([labelled_row("fig4", "SE-Emp", f, 0, 2.0) for f in fractions])
        line = next(layer for layer in spec["layer"] if layer["name"] == "curves")["layer"][0]
        assert line["encoding"]["x"]["axis"]["values"] == ticks

    def test_curves_look_different_from_each_other(self):
        looks = styles(lines_of(curve_rows("fig4", np.random.default_rng(0))))
        assert len({(look.colour, look.dash, look.shape) for look in looks.values()}) == 16
        assert len({(look.colour, look.dash) for look in looks.values()}) == 16


class TestFigures:
    def test_every_experiment_becomes_a_figure(self):
        figures = make_figures(distinct(located(all_rows())))
        assert [figure.name for figure in figures] == ["fig1", "fig4", "fig5", "rica", "speech"]
        speech = figures[-1]
        assert isinstance(speech, LinesFigure)
        assert [m.name for m in speech.metrics] == ["test_error", "digit_error", "frame_error"]
        assert speech.common == "fsdd"
        assert list(figures[0].filters) == ["ConvNet on CIFAR-10", "MLP on MNIST"]

    def test_random_directions_stand_beside_the_predicted_filters(self):
        rows = [row for row in all_rows() if row["experiment"] == "fig1"]
        (figure,) = make_figures(located(rows))
        assert [metric.name for metric in figure.metrics] == ["r2", "random_r2"]
        of_mlp = next(line for line in figure.lines if line.curve == "MLP on MNIST")
        mine = [row["figure"]["r2"] for row in rows if row["variant"] == "MLP on MNIST"]
        for i, point in enumerate(of_mlp.points["random_r2"]):
            assert point.mean == pytest.approx(np.mean([100 * r[i]["random_r2"] for r in mine]))
        for row in rows:
            for item in row["figure"]["r2"]:
                del item["random_r2"]  # rows of other programs need not have it
        assert [metric.name for metric in make_figures(located(rows))[0].metrics] == ["r2"]

    def test_rows_without_labels_are_compared_by_data_set(self):
        rows = []
        for dataset in ("mnist", "digits (5,000)"):
            row = labelled_row("demo", "x", 1.0, 0, 2.0, dataset=dataset)
            del row["labels"]
            row["metrics"]["checkpoint_bytes"] = 1
            rows.append(row)
        names = [figure.name for figure in make_figures(located(rows))]
        assert names == ["demo-digits-5-000", "demo-mnist"]

    def test_refuses_no_rows(self):
        with pytest.raises(ValueError, match="no rows to report: run an experiment first"):
            report.tables([])

    def test_names_what_figure_1_lacks(self):
        row = all_rows()[0]
        del row["figure"]["r2"]
        with pytest.raises(ValueError, match="row 1: the entry 'figure' has no 'r2'"):
            make_figures(located([row]))

    @pytest.mark.parametrize("text", ["../../etc/passwd", "Fig 4", "ä", ""])
    def test_names_are_safe_as_files(self, text):
        assert re.fullmatch(r"[a-z0-9-]+", slug(text))


def wide_rows(curve="SE-Emp"):
    """Errors far apart; at 10 % learned 1 and 4: the standard deviation is 0.85 of the mean."""
    return [
        labelled_row("fig4", curve, fraction, seed, error + seed)
        for fraction, error in ((0.1, 1), (0.01, 90))
        for seed in (0, 3)
    ]


class TestCaption:
    """What the page says under a chart, and a picture over it."""

    CUT = "the bar is cut at half the mean"

    @staticmethod
    def words(rows):
        results = distinct(located(rows))
        (figure,) = make_figures(results)
        drawn = chart(figure)
        lines = picture(figure, drawn)["title"]["subtitle"]
        return html.unescape(section(figure)), " ".join(lines)

    def test_says_which_bars_are_cut(self):
        (figure,) = make_figures(located(wide_rows()))
        low = {v["share"]: v for v in chart_values(figure.lines, figure.metrics[0])}[10]["low"]
        assert low == 1.25 > 2.5 - math.sqrt(4.5)
        for text in self.words(wide_rows()):
            assert f"{self.CUT} there: SE-Emp at 10 %." in text

    def test_says_so_only_where_one_is(self):
        narrow = [row for row in wide_rows() if row["seed"] == 0 or row["labels"]["fraction"] < 0.1]
        linear = [
            row for row in wide_rows() + wide_rows("LowRank") if row["labels"]["fraction"] == 0.1
        ]
        for rows in (simple_rows(), narrow, linear):
            for text in self.words(rows):
                assert self.CUT not in text

    def test_counts_the_cut_bars_that_it_does_not_name(self):
        names = ("SE-Emp", "SE-AE", "Emp-Emp", "LowRank", "PCA-PCA", "DCT-DCT")
        rows = [row for name in names for row in wide_rows(name)]
        for text in self.words(rows):
            assert (
                "LowRank at 10 %, SE-Emp at 10 %, SE-AE at 10 %, Emp-Emp at 10 % and 2 more."
                in text
            )

    def test_a_picture_speaks_of_what_it_shows(self):
        rows = wide_rows() + [
            labelled_row("fig4", "SE-Emp", f, 0, 5.0, columns=c)
            for f in (0.1, 0.2, 0.5)
            for c in (1, 5)
        ]
        for row in rows[:4]:
            row["labels"]["columns"] = 20
        page, drawn = self.words(rows)
        assert "n = 1 to 2 runs" in page
        assert "a single run has no bar" in page
        assert self.CUT in page
        assert "One run per symbol" in drawn
        assert self.CUT not in drawn

    def test_single_runs_are_no_means(self):
        rows = [row for row in simple_rows() if row["seed"] == 0]
        for text in self.words(rows):
            assert "One run per symbol, so no spread is known." in text
            assert "means of" not in text
            assert "means over" not in text
            assert "one standard deviation" not in text

    def test_several_runs_are_means_with_bars(self):
        rows = [row for row in simple_rows() if row["labels"]["curve"] != "dense"]
        for text in self.words(rows):
            assert "Symbols are means over n = 2 runs with different seeds; bars reach" in text
            assert "single run" not in text

    def test_shares_of_learned_weights_are_those_asked_for(self):
        for text in self.words(simple_rows()):
            assert "Shares are those asked for; layers learn whole atoms or units" in text
        rows = [row for row in all_rows() if row["experiment"] == "fig1"]
        for text in self.words(rows):
            assert "Shares are those asked for, rounded to whole weights." in text


class TestTables:
    def test_has_a_line_per_curve_and_a_column_per_fraction(self):
        title, note, head, dense, curve = report.tables(simple_rows()).splitlines()
        assert title.startswith("Figure 4")
        assert note == "test error, %: mean ± standard deviation (runs)"
        assert re.split(r"\s{2,}", head) == ["curve", "5 %", "10 %", "100 %"]
        assert re.split(r"\s{2,}", dense) == ["dense", "1.00 (1)"]
        assert re.split(r"\s{2,}", curve) == ["SE-Emp", "3.50 ± 0.71 (2)", "2.50 ± 0.71 (2)"]
        assert len(head) == len(dense)

    def test_settings_have_columns_of_their_own(self):
        table = report.tables(simple_rows(columns=1) + simple_rows(columns=5)[:-1])
        assert re.search(r"^curve +columns +5 %", table, re.MULTILINE)
        assert re.search(r"^dense +any ", table, re.MULTILINE)
        assert re.search(r"^SE-Emp +5 +3\.50 ± 0\.71 \(2\)", table, re.MULTILINE)


class TestFiles:
    def test_every_figure_has_marks_in_its_svg_and_a_png(self, tmp_path):
        rows = [row for row in all_rows() if row["experiment"] in ("fig1", "fig4")]
        page = report.write_report(rows, tmp_path / "deep" / "report")
        names = {file.name for file in page.parent.iterdir()}
        stems = ("fig1", "fig1-filters", "fig4")
        assert names == {"index.html"} | {f"{s}.{end}" for s in stems for end in ("svg", "png")}
        svg = ET.parse(page.parent / "fig4.svg").getroot()
        symbols = [e for e in svg.iter() if "mark-symbol" in e.get("class", "")]
        assert sum(len(list(group)) for group in symbols) == len(CURVES) * len(FRACTIONS)
        text = "".join(svg.itertext())
        for words in (
            "Figure 4",
            "10 columns, relu",
            "means over n = 3 runs",
            "SE-Emp orthonormal",
        ):
            assert words in text
        images = ET.parse(page.parent / "fig1-filters.svg").getroot()
        assert len([e for e in images.iter() if e.tag.endswith("image")]) == 2 * 6 * 3
        for stem in stems:
            data = (page.parent / f"{stem}.png").read_bytes()
            assert data[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
            assert width > 1000
            assert height > 500

    def test_pictures_may_be_left_out(self, tmp_path):
        page = report.write_report(simple_rows(), tmp_path, images=False)
        assert [file.name for file in tmp_path.iterdir()] == [page.name]

    def test_the_page_escapes_everything_that_comes_from_rows(self, tmp_path):
        rows = [
            labelled_row(EVIL, EVIL, 0.1, 0, 1.0, activation=EVIL, dataset=EVIL),
            labelled_row(EVIL, "other", 0.1, 0, 1.0, activation="relu", dataset="mnist"),
        ]
        rows[0]["versions"] = {EVIL: EVIL}
        text = report.write_report(rows, tmp_path, images=False).read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert text.count("<script") == text.count("</script>") == 3
        assert [file.name for file in tmp_path.iterdir()] == ["index.html"]

    def test_a_report_that_fails_leaves_the_old_one(self, tmp_path, monkeypatch):
        report.write_report(simple_rows(), tmp_path)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        bad = simple_rows()
        del bad[0]["metrics"]["test_error"]
        with pytest.raises(ValueError, match=r"row 1 has no 'metrics\.test_error'"):
            report.write_report(bad, tmp_path)

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            report.write_report(simple_rows()[:2], tmp_path)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


class TestCommand:
    def test_prints_the_tables_and_says_where_the_page_is(self, tmp_path, capsys):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in simple_rows()))
        page = run_report([path], tmp_path / "out", images=False)
        out = capsys.readouterr().out
        assert out.startswith(report.tables(simple_rows()))
        assert out.endswith(f"Open {page} in a browser.\n")

    def test_names_file_and_line_of_an_incomplete_row(self, tmp_path):
        rows = simple_rows()
        del rows[1]["labels"]["curve"]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 2 has no 'labels\.curve'"):
            run_report([path], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_refuses_nothing_at_all(self, tmp_path):
        with pytest.raises(ValueError, match="name at least one file"):
            run_report([], tmp_path)
        empty = tmp_path / "empty.jsonl"
        empty.write_text("\n")
        with pytest.raises(ValueError, match=r"no rows in .*empty\.jsonl: run an experiment"):
            run_report([empty], tmp_path / "out")

    def test_a_file_is_no_folder(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(simple_rows()[0]) + "\n")
        with pytest.raises(ValueError, match=r"rows\.jsonl is no folder: choose another name"):
            run_report([path], path)
