"""The demo: what it compares, figure 1 against scikit-learn, and the command from end to end."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score

import weightcast as wc
from weightcast_lab.cli import demo_command as command
from weightcast_lab.report import write_page
from weightcast_lab.studies import demo
from weightcast_lab.studies.figure1 import FilterPredictor, explained, figure1
from weightcast_lab.sweeps import variants
from weightcast_lab.sweeps.rows import read_rows
from weightcast_lab.training import Images, Interrupted, TrainConfig, mlp
from weightcast_lab.training.build import build_model

NAMES = [
    "dense",
    "5 % learned",
    "2 % learned",
    "5 % learned, no windows",
    "narrow dense",
    "low-rank",
]


def make_images(channels=1, size=28, n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, size, size, generator=generator)
    y = torch.arange(n) % 10
    return Images("noise", (x, y), None, (x, y), 10)


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that other tests keep waiting make small matrices take seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def noise(monkeypatch):
    """Runs of the demo on 40 images of noise, which take no time to read or to learn."""
    images = make_images()
    monkeypatch.setattr(demo, "load_images", lambda source: images)
    return images


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.open = [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        self.images += tag == "img" and dict(attributes)["src"].startswith("data:image/png;base64,")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1].append(data)


class TestVariants:
    def test_have_the_counts_of_the_method(self):
        images = make_images()
        compared = variants.make_variants(images)
        assert [variant.name for variant in compared] == NAMES
        settings = demo.training_settings("digits")
        counts = {}
        for variant in compared:
            model = build_model(variants.make_config(variant, "digits", settings, 0), images)
            counts[variant.name] = wc.ledger(model).total.learned
        assert counts["dense"] == 784 * 500 + 500 + 500 * 500 + 500 + 5010
        assert counts["5 % learned"] == (39 + 25) * 500 + 1000 + 5010
        assert counts["5 % learned, no windows"] == counts["5 % learned"]
        assert counts["2 % learned"] == (16 + 10) * 500 + 1000 + 5010
        assert 0 <= counts["narrow dense"] - counts["5 % learned"] < 1000
        assert abs(counts["low-rank"] - counts["5 % learned"]) < 1000

    @pytest.mark.parametrize(("n_learned", "width"), [(38_010, 46), (1, 1), (648_010, 500)])
    def test_the_narrow_network_is_the_narrowest_with_as_many_weights(self, n_learned, width):
        def count(h):
            return sum(p.numel() for p in mlp(hidden=(h, h)).parameters())

        assert variants.matching_width(n_learned, 784, 10) == width
        assert count(width) >= n_learned
        assert width == 1 or count(width - 1) < n_learned

    def test_a_rows_config_is_one_that_train_takes(self, noise):
        rows, _ = demo.compare("noise", seeds=1, epochs=1, progress=False)
        for row in rows:
            config = TrainConfig.from_dict(row["config"])
            assert config.variant == row["variant"]
            assert wc.ledger(build_model(config, noise)).total.learned == row["counts"]["learned"]


class TestCompare:
    def test_rows_are_written_one_by_one_and_say_everything(self, noise, tmp_path):
        rows, figure = demo.compare("noise", 2, 1, rows=tmp_path / "rows.jsonl", progress=False)
        assert read_rows(tmp_path / "rows.jsonl") == rows
        assert [(row["seed"], row["variant"]) for row in rows] == [
            (seed, name) for seed in (0, 1) for name in NAMES
        ]
        assert {row["dataset"] for row in rows} == {"noise"}
        assert {row["config"]["training"]["epochs"] for row in rows} == {1}
        assert len(figure["filters"]) == 9

    def test_the_same_seed_gives_the_same_errors(self, noise):
        errors = [
            [row["metrics"]["test_error"] for row in demo.compare("noise", 1, 2, progress=False)[0]]
            for _ in range(2)
        ]
        assert errors[0] == errors[1]

    def test_says_what_is_finished_where_there_is_no_terminal(self, noise, capsys):
        demo.compare("noise", 1, 1)
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(", seed")[0] for line in lines] == NAMES
        assert re.fullmatch(r"dense, seed 0: test error \d+\.\d\d %, \d+\.\d s", lines[0])

    def test_images_in_colour(self, monkeypatch):
        images = make_images(channels=3, size=8)
        monkeypatch.setattr(demo, "load_images", lambda source: images)
        rows, figure = demo.compare("noise", 1, 1, progress=False)
        assert len(rows) == 6
        for item in figure["filters"]:
            assert len(item["true"]) == len(item["predicted"]) == 64
            assert max(item["known"]) < 64

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"seeds": 0}, "seeds is 0: every network needs at least 1 run"),
            ({"epochs": 0}, "epochs is 0"),
            ({"data": "no such/folder at all"}, "no such/folder at all"),
        ],
    )
    def test_refuses_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            demo.compare(**arguments)

    def test_checkpoints_hold_what_is_learned(self):
        images = make_images()
        settings = demo.training_settings("digits")
        for variant in variants.make_variants(images):
            model = build_model(variants.make_config(variant, "digits", settings, 0), images)
            size = demo.checkpoint_bytes(model)
            learned = 4 * wc.ledger(model).total.learned
            # Beside the weights: names and rules, and four bytes for each position.
            assert learned < size < 1.05 * learned + 4 * 20 * (39 + 25) + 4000, variant.name


class TestFigure1:
    def test_predicts_like_scikit_learns_kernel_ridge(self):
        W = torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        rule = wc.Rule(
            wc.dictionaries.Kernel(wc.kernels.SquaredExponential(1.5), ridge=0.2),
            fraction=0.3,
            columns=4,
            grid=(5, 6),
        )
        predictor = FilterPredictor(rule, W.shape)
        known, predicted = predictor.known, predictor.predict(W)
        xy = np.array([(r, c) for r in range(5) for c in range(6)], dtype=float)
        for w, positions, w_hat in zip(W.numpy(), known.numpy(), predicted.numpy(), strict=True):
            assert len(set(positions)) == 9
            ridge = KernelRidge(alpha=0.2, kernel=RBF(1.5)).fit(xy[positions], w[positions])
            np.testing.assert_allclose(w_hat, ridge.predict(xy), atol=1e-10)

    def test_units_of_one_column_share_their_known_positions(self):
        rule = wc.Rule(wc.dictionaries.Kernel(), fraction=0.2, columns=2, grid=(5, 6))
        known = FilterPredictor(rule, (5, 30)).known
        assert known[0].equal(known[2])
        assert not known[2].equal(known[3])
        assert known[3].equal(known[4])

    def test_explained_is_the_usual_r2(self):
        w, w_hat = torch.randn(2, 1, 20, generator=torch.Generator().manual_seed(0)).double()
        assert explained(w, w_hat) == pytest.approx(r2_score(w[0], w_hat[0]))
        assert explained(w, w) == 1
        assert explained(torch.ones(1, 3), torch.zeros(1, 3)) == 0

    def test_smooth_filters_are_predicted_and_noise_is_not(self):
        images, smooth, noise = make_images(), mlp(hidden=(20, 20)), mlp(hidden=(20, 20), seed=0)
        rows = torch.arange(28.0)
        bumps = [
            torch.exp(-((rows[:, None] - 10) ** 2 + (rows - 5 - u) ** 2) / 18) for u in range(20)
        ]
        with torch.no_grad():
            smooth.hidden1.weight.copy_(torch.stack(bumps).flatten(1))
        data, of_noise = (figure1(m, images, variants.KERNEL, columns=5) for m in (smooth, noise))
        r2 = {row["fraction"]: row["r2"] for row in data["r2"]}
        assert r2[0.25] > 0.95
        assert sorted(r2.values()) == list(r2.values())
        assert of_noise["r2"][2]["r2"] < 0.3
        shown = [item["r2"] for item in data["filters"]]
        assert shown == sorted(shown)
        assert all(len(item["known"]) == 196 for item in data["filters"])
        json.dumps(data, allow_nan=False)


class TestCommand:
    def test_runs_from_end_to_end(self, tmp_path):
        output = tmp_path / "page"
        arguments = ["demo", "--seeds=1", "--epochs=1", f"--output={output}"]
        run = subprocess.run(
            [sys.executable, "-m", "weightcast", *arguments],
            capture_output=True,
            text=True,
            timeout=250,
            env={**os.environ, "COLUMNS": "200"},  # or the table would fold
        )
        assert run.returncode == 0, run.stderr
        table = run.stdout.splitlines()
        assert table[0].split()[0] == "variant"
        assert [line.split("  ")[0] for line in table[1:7]] == NAMES
        assert "index.html" in table[-1]

        rows = read_rows(output / "rows.jsonl")
        assert {row["dataset"] for row in rows} == {"digits (5,000 of MNIST)"}
        assert rows[0]["counts"]["train_images"] == 4000
        assert rows[0]["counts"]["test_images"] == 1000
        assert all(row["metrics"]["test_error"] < 60 for row in rows)

        text = (output / "index.html").read_text(encoding="utf-8")
        page = Cells(text)
        assert [row[0] for row in page.rows[1:7]] == NAMES
        for line, cells in zip(table[1:7], page.rows[1:7], strict=True):
            assert line.split() == " ".join(cells).split()
        assert page.images == 3 * 9
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=.?(https?:)?//", text)
        assert sorted(file.name for file in output.iterdir()) == [
            "figure1.json",
            "index.html",
            "rows.jsonl",
        ]

        # The page is a drawing of the two files beside it.
        figure = json.loads((output / "figure1.json").read_text())
        again = write_page(rows, figure, tmp_path / "again.html")
        assert again.read_text(encoding="utf-8") == text

    def test_its_own_rows_are_replaced_and_others_are_kept(self, noise, tmp_path, monkeypatch):
        monkeypatch.setattr("weightcast_lab.report.write_page", lambda rows, figure1, path: path)
        own, others = tmp_path / "rows.jsonl", tmp_path / "others.jsonl"
        for n_others in (6, 12):
            command.run_demo("noise", 1, 1, tmp_path, rows=others)
            command.run_demo("noise", 1, 1, tmp_path)
            assert len(read_rows(others)) == n_others
            assert len(read_rows(own)) == 6

    @pytest.mark.parametrize("wrong", [{"seeds": 0}, {"epochs": 0}, {"data": "no such/folder"}])
    def test_bad_arguments_leave_old_results_alone(self, tmp_path, wrong):
        for name in ("rows.jsonl", "index.html"):
            (tmp_path / name).write_text("old")
        with pytest.raises(ValueError, match=r"seeds|epochs|no such/folder"):
            command.run_demo(output=tmp_path, **wrong)
        assert {file.read_text() for file in tmp_path.iterdir()} == {"old"}

    def test_an_interrupted_demo_says_where_its_rows_are(self, monkeypatch, tmp_path):
        def compare(*_, **__):
            raise Interrupted("stopped in epoch 2 of 25")

        monkeypatch.setattr(demo, "compare", compare)
        with pytest.raises(Interrupted, match=r"epoch 2 of 25; the rows of .*rows\.jsonl"):
            command.run_demo(output=tmp_path)
        assert not (tmp_path / "index.html").exists()

    def test_a_file_is_no_folder_for_the_page(self, tmp_path):
        (tmp_path / "page").write_text("")
        with pytest.raises(ValueError, match="page is no folder: choose another name"):
            command.run_demo(output=tmp_path / "page")
