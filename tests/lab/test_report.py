import base64
import json
import math
import os
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from weightcast_lab import report
from weightcast_lab.report import document
from weightcast_lab.report import filters_chart as filters

REAL_BUNDLE = document.vl_convert.javascript_bundle
EVIL = "</script><img src=x onerror=alert(1)>\"'&"


def make_row(variant="dense", seed=0, *, error=5.0, learned=1000, **changes):
    row = {
        "schema": 1,
        "experiment": "demo",
        "variant": variant,
        "dataset": "digits (5,000 of MNIST)",
        "seed": seed,
        "description": f"about {variant}",
        "config": {},
        "counts": {"learned": learned, "train_images": 4000, "test_images": 1000},
        "metrics": {"test_error": error, "train_seconds": 2.0, "checkpoint_bytes": 4000},
        "versions": {"weightcast": "0.1.0"},
    }
    return row | changes


def make_rows():
    return [
        make_row("dense", 0, error=4.0, learned=2000),
        make_row("few", 0, error=5.0, learned=100),
        make_row("dense", 1, error=6.0, learned=2000),
        make_row("few", 1, error=8.0, learned=100),
    ]


def make_figure1(**changes):
    true = [math.sin(i) for i in range(16)]
    figure = {
        "shape": [4, 4],
        "description": ["What a filter is.", "What is shown."],
        "r2": [{"fraction": 0.25, "n_atoms": 4, "r2": 0.75}],
        "filters": [{"unit": 7, "r2": 0.5, "true": true, "known": [0, 5], "predicted": [0.5] * 16}],
    }
    return figure | changes


@pytest.fixture(autouse=True)
def _short_bundle(monkeypatch):
    """The real Vega takes a second to bundle: one test looks at it, the others do without."""
    monkeypatch.setattr(document.vl_convert, "javascript_bundle", lambda snippet: "vegaEmbed = f")


class Page(HTMLParser):
    """Tags, cells and images of a page, as a browser would tell them apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.text, self.cells = [], [], [], []
        self.stack = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in ("meta", "img", "link"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.stack and self.stack[-1] in ("td", "th"):
            self.cells[-1] += data


def decode_png(uri):
    """Read back an RGBA PNG of unfiltered lines, checking every chunk's sum."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunks[kind] = data[at + 8 : at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert crc == zlib.crc32(kind + chunks[kind])
        at += 12 + size
    columns, rows = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(rows, columns, 4)


class TestSummary:
    def test_reduces_runs_to_one_summary_per_variant(self):
        dense, few = report.summarise(make_rows())
        assert (dense.variant, dense.seeds, dense.test_errors) == ("dense", (0, 1), (4.0, 6.0))
        assert dense.mean == 5.0
        assert dense.spread == pytest.approx(math.sqrt(2))
        assert (few.learned, few.share) == (100, 0.05)
        assert (few.train_seconds, few.checkpoint_bytes) == (2.0, 4000)
        assert few.description == "about few"

    def test_shares_are_of_the_dense_network_even_where_it_was_not_run(self):
        few = make_row("few", learned=12_510)
        few["counts"]["dense"] = 648_010
        older = make_row("fewer", learned=6_255)
        summaries = report.summarise([older, few])
        assert [s.share for s in summaries] == [6_255 / 648_010, 12_510 / 648_010]
        assert summaries[1].cells()[2] == "1.9 %"

    def test_a_larger_network_than_the_dense_one_is_the_whole(self):
        rows = [make_row("few", learned=100), make_row("wide", learned=2000)]
        rows[0]["counts"]["dense"] = 1000
        assert [s.share for s in report.summarise(rows)] == [0.05, 1.0]

    def test_refuses_a_dense_count_that_is_no_number(self):
        row = make_row()
        row["counts"]["dense"] = "many"
        with pytest.raises(ValueError, match=r"row 1: counts\.dense is 'many', not a finite"):
            report.summarise([row])

    def test_a_single_run_has_no_spread(self):
        (summary,) = report.summarise([make_row(error=4.0)])
        assert summary.spread is None
        assert summary.cells()[3] == "4.00"

    def test_prints_an_aligned_table(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        head, dense, few = report.text_table(make_rows()).splitlines()
        assert head.startswith("variant  learned weights")
        assert dense.split() == [
            "dense",
            "2,000",
            "100.0",
            "%",
            "5.00",
            "±",
            "1.41",
            "2.0",
            "4,000",
        ]
        assert len(head) == len(dense) == len(few)

    def test_refuses_no_rows(self):
        with pytest.raises(ValueError, match="no rows to report: run the experiment"):
            report.summarise([])

    @pytest.mark.parametrize("key", ["variant", "dataset", "counts", "metrics", "seed"])
    def test_names_the_row_and_the_missing_entry(self, key):
        rows = make_rows()
        del rows[1][key]
        with pytest.raises(ValueError, match=f"row 2 has no '{key}'"):
            report.summarise(rows)

    @pytest.mark.parametrize("error", [math.nan, math.inf, "4.2", None, True])
    def test_refuses_what_is_no_finite_number(self, error):
        with pytest.raises(ValueError, match=r"row 1: metrics\.test_error is .* not a finite"):
            report.summarise([make_row(error=error)])

    def test_refuses_rows_of_several_data_sets(self):
        with pytest.raises(ValueError, match=r"2 data sets \(digits .*, mnist\)"):
            report.summarise([make_row(), make_row(dataset="mnist")])

    def test_refuses_one_name_for_two_configurations(self):
        with pytest.raises(ValueError, match="with 100 and with 2,000 learned"):
            report.summarise([make_row(learned=2000), make_row(learned=100)])


class TestChart:
    def spec(self, rows):
        return report.error_chart(report.summarise(rows))

    def test_shows_means_spread_and_single_runs_on_a_log_axis(self):
        spec = self.spec(make_rows())
        marks = {layer["mark"]["type"]: layer for layer in spec["layer"]}
        assert set(marks) == {"rule", "tick", "point"}
        assert len(marks["tick"]["data"]["values"]) == 4
        few = marks["point"]["data"]["values"][1]
        assert few["error"] == 6.5
        assert few["high"] - few["low"] == pytest.approx(2 * math.sqrt(4.5))
        x = marks["point"]["encoding"]["x"]
        assert x["scale"]["type"] == "log"
        assert x["scale"]["domain"] == pytest.approx([100 / 1.4, 2000 * 1.4])
        assert x["axis"]["values"] == [100, 200, 500, 1000, 2000]

    def test_has_room_for_everything_drawn(self):
        low, high = self.spec(make_rows())["layer"][0]["encoding"]["y"]["scale"]["domain"]
        assert low < 5 - math.sqrt(2)
        assert high > 6.5 + math.sqrt(4.5)

    def test_a_single_run_is_a_bar_on_an_axis_of_some_length(self):
        (bar,) = self.spec([make_row(error=0.0)])["layer"]
        low, high = bar["encoding"]["x"]["scale"]["domain"]
        assert low == 0 < high
        assert bar["mark"]["type"] == "bar"

    def test_one_network_of_several_runs_is_a_bar_with_its_spread(self):
        rows = [make_row(seed=seed, error=error) for seed, error in enumerate((4.0, 5.0, 6.0))]
        bar, spread, single = self.spec(rows)["layer"]
        assert bar["data"]["values"][0]["error"] == 5
        assert [spread["data"]["values"][0][end] for end in ("low", "high")] == [4, 6]
        assert [run["error"] for run in single["data"]["values"]] == [4, 5, 6]
        assert bar["encoding"]["x"]["scale"]["domain"][0] == 0
        assert bar["encoding"]["x"]["scale"]["domain"][1] > 6

    def test_more_variants_than_colours(self):
        names = [f"variant {i}" for i in range(20)]
        spec = self.spec([make_row(name) for name in names])
        colour = spec["layer"][2]["encoding"]["color"]["scale"]
        assert colour["domain"] == names
        assert len(colour["range"]) == 20


class TestFilters:
    def test_png_round_trip(self):
        pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
        np.testing.assert_array_equal(decode_png(filters.data_uri(pixels)), pixels)

    def test_only_known_weights_are_coloured(self):
        true = np.linspace(-1, 1, 12)
        uris = report.filter_images(true.tolist(), [1, 10], [0.0] * 12, (3, 4))
        full, known, predicted = map(decode_png, uris)
        opaque = known[..., 3].reshape(-1) == 255
        assert np.flatnonzero(opaque).tolist() == [1, 10]
        np.testing.assert_array_equal(known.reshape(-1, 4)[opaque], full.reshape(-1, 4)[opaque])
        assert (full[..., 3] == 255).all()
        assert (predicted[..., :3] == 247).all()

    def test_signs_are_blue_and_red_on_one_scale(self):
        uris = report.filter_images([-1.0, 1.0], [0], [0.0, 4.0], (1, 2))
        full, _, predicted = map(decode_png, uris)
        assert full[0, 0, 2] > full[0, 0, 0]  # negative: more blue than red
        assert full[0, 1, 0] > full[0, 1, 2]
        np.testing.assert_array_equal(predicted[0, 1, :3], [178, 24, 43])  # the largest of all
        assert full[0, 1, 1] > predicted[0, 1, 1]  # the same sign, a quarter as strong

    def test_an_all_zero_filter_has_a_picture(self):
        full, *_ = map(decode_png, report.filter_images([0.0] * 4, [], [0.0] * 4, (2, 2)))
        assert (full[..., :3] == 247).all()

    @pytest.mark.parametrize(
        ("true", "known", "shape", "message"),
        [
            ([0.0] * 5, [0], (2, 2), "true filter has 5 weights, which do not fill"),
            ([0.0] * 4, [0], (4,), "do not fill"),
            ([0.0, 1.0, math.nan, 0.0], [0], (2, 2), "NaN or infinite weights"),
            ([0.0] * 4, [4], (2, 2), "from 4 to 4, the filter has 4"),
            ([0.0] * 4, [-1], (2, 2), "from -1 to -1"),
        ],
    )
    def test_refuses_filters_that_cannot_be_drawn(self, true, known, shape, message):
        with pytest.raises(ValueError, match=message):
            report.filter_images(true, known, [0.0] * 4, shape)


class TestPage:
    def test_holds_the_table_the_chart_and_the_filters(self):
        text = report.render_page(make_rows(), make_figure1())
        parsed = Page(text)
        assert not parsed.stack
        assert parsed.cells[:6] == list(report.summary.HEADINGS)
        assert parsed.cells[-2:] == ["4 (25 %)", "75 %"]
        assert parsed.cells[12:18] == ["few", "100", "5.0 %", "6.50 ± 2.12", "2.0", "4,000"]
        images = [attributes for tag, attributes in parsed.tags if tag == "img"]
        assert [image["alt"].split()[0] for image in images] == ["true", "known", "predicted"]
        words = " ".join(parsed.text)
        for sentence in (
            "about few",
            "unit 7: 50 % of variance",
            "4,000 images",
            "over 2 seeds",
            "by 0.7 points",
        ):
            assert sentence in words

    def test_chart_data_is_json(self):
        text = report.render_page(make_rows())
        (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text)
        assert json.loads(data)["error-chart"]["layer"]
        assert text.count('id="error-chart"') == 1

    def test_figure_1_may_be_left_out(self):
        assert "<figure>" not in report.render_page(make_rows(), None)

    def test_rows_need_only_what_is_measured(self):
        row = make_row(counts={"learned": 10})
        del row["description"], row["config"], row["versions"]
        words = " ".join(Page(report.render_page([row])).text)
        assert "one seed each, so no spread" in words
        assert "standard error" not in words

    @pytest.mark.parametrize("key", ["shape", "filters", "r2", "description"])
    def test_names_what_figure_1_lacks(self, key):
        figure = make_figure1()
        del figure[key]
        with pytest.raises(ValueError, match=f"figure 1 has no '{key}'"):
            report.render_page(make_rows(), figure)

    def test_escapes_everything_that_comes_from_rows(self):
        row = make_row(EVIL, dataset=EVIL, description=EVIL, versions={EVIL: EVIL})
        figure = make_figure1(description=[EVIL])
        figure["filters"][0]["unit"] = EVIL
        text = report.render_page([row], figure)
        parsed = Page(text)
        assert not [a for tag, a in parsed.tags if tag == "img" and a["src"] == "x"]
        assert sum(tag == "script" for tag, _ in parsed.tags) == 3
        assert "onerror=alert(1)>" not in text.replace(
            EVIL.replace("<", "\\u003c").replace('"', '\\"'), ""
        )

    def test_loads_nothing(self):
        for tag, attributes in Page(report.render_page(make_rows(), make_figure1())).tags:
            assert tag not in ("link", "iframe", "object", "embed", "base")
            assert attributes.get("src", "data:").startswith("data:")

    def test_the_real_vega_is_inlined_once_and_ends_no_script(self, monkeypatch):
        monkeypatch.setattr(document.vl_convert, "javascript_bundle", REAL_BUNDLE)
        parsed = Page(report.render_page(make_rows()))
        scripts = [i for i, text in enumerate(parsed.text) if "window.vegaEmbed" in text]
        assert len(scripts) == 1
        assert len(parsed.text[scripts[0]]) > 500_000

    def test_writes_and_replaces_the_page_in_one_step(self, tmp_path):
        target = tmp_path / "deep" / "index.html"
        assert report.write_page(make_rows(), make_figure1(), target) == target
        first = target.read_text(encoding="utf-8")
        report.write_page(make_rows()[:1], None, target)
        assert target.read_text(encoding="utf-8") != first
        assert [file.name for file in target.parent.iterdir()] == ["index.html"]

    def test_a_page_that_cannot_be_drawn_leaves_the_old_one(self, tmp_path):
        target = tmp_path / "index.html"
        target.write_text("old")
        with pytest.raises(ValueError, match="no rows"):
            report.write_page([], None, target)
        assert target.read_text() == "old"

    def test_an_interrupted_write_leaves_the_old_one(self, tmp_path, monkeypatch):
        target = tmp_path / "index.html"
        target.write_text("old")

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report.write_page(make_rows(), None, target)
        assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
        assert target.read_text() == "old"
