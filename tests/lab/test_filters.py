"""Filters' trials: sources of data, choice of the kernel, what a row says, the same twice."""

import json

import numpy as np
import pytest
import torch

from weightcast.dictionaries import Kernel
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast_lab.data.natural_patches import PHOTOGRAPHS
from weightcast_lab.report.filters_chart import filter_images
from weightcast_lab.studies import filters
from weightcast_lab.studies.figure1 import (
    FilterPredictor,
    explained,
    predict_filters,
    random_r2,
    shown_filters,
)
from weightcast_lab.studies.filters import FilterConfig, left_out, run, trials
from weightcast_lab.studies.first_layers import spread
from weightcast_lab.studies.sources import find_source, parse_sources
from weightcast_lab.sweeps.trial import Place, Trial
from weightcast_lab.training import Images, TrainingSettings


def make_images(channels=1, size=12, n=60):
    x = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 3
    return Images("noise", (x, y), None, (x[:30], y[:30]), 3)


def bumps(grid, n_units, width=2.5):
    """Smooth filters: Gaussian bumps at places of their own, in every channel."""
    generator = torch.Generator().manual_seed(0)
    points = grid.coordinates()
    centres = torch.rand(n_units * grid.channels, 2, generator=generator).double() * max(grid.shape)
    squares = (points[None] - centres[:, None]).square().sum(dim=2)
    return torch.exp(-squares / (2 * width**2)).view(n_units, -1)


def noise(n_units, n_visible):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_units, n_visible, generator=generator, dtype=torch.float64)


CANDIDATES = [
    Kernel(SquaredExponential(scale), ridge=ridge)
    for scale in (0.5, 1.0, 2.0)
    for ridge in (1e-4, 0.1)
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sources(monkeypatch):
    """Images of noise in place of data; the list of what was asked for."""
    read = []

    def load(source):
        read.append(source)
        return make_images(3 if "colour" in source else 1)

    monkeypatch.setattr(filters, "load_images", load)
    return read


class TestSources:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("mnist=/a/b,cifar10=c.safetensors", {"mnist": "/a/b", "cifar10": "c.safetensors"}),
            (" mnist = ~/data ", {"mnist": "~/data"}),
            ("/plain/folder", {}),
            ("/odd/name=with,equals=signs", None),
            ("ylecun/mnist", {}),
            ("./x=1", {}),
            ("mnist=/path/with=sign", {"mnist": "/path/with=sign"}),
        ],
    )
    def test_are_read_in_order(self, text, expected):
        if expected is None:
            with pytest.raises(ValueError, match=r"'/odd/name=with' in .* is no NAME=PLACE"):
                parse_sources(text)
        else:
            assert list(parse_sources(text).items()) == list(expected.items())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mnist=/a,/b", "'/b' in 'mnist=/a,/b' is no NAME=PLACE"),
            ("mnist=,cifar10=/b", "'mnist=' in"),
            ("=/a", "'=/a' in"),
            ("mnist=/a,mnist=/b", "'mnist' is named twice"),
        ],
    )
    def test_that_cannot_be_read_are_refused(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_sources(text)

    @pytest.mark.parametrize(
        ("place", "data", "expected"),
        [
            (None, "mnist", "mnist"),
            ("/x", "mnist", "/x"),
            ("/x", "digits", "digits"),
            ("/x", PHOTOGRAPHS, PHOTOGRAPHS),
            ({"mnist": "/x", "cifar10": "/y"}, "cifar10", "/y"),
            ({"a/b": "/x,y=z"}, "a/b", "/x,y=z"),
            ({"mnist": "/x"}, PHOTOGRAPHS, PHOTOGRAPHS),
            ({"photographs": "/x"}, PHOTOGRAPHS, "/x"),
        ],
    )
    def test_are_found_by_name(self, place, data, expected):
        assert find_source(place, data) == expected

    def test_that_are_missing_are_named(self):
        with pytest.raises(ValueError, match="no place for the data 'cifar10', only for mnist"):
            find_source({"mnist": "/x"}, "cifar10")


class TestChoice:
    def test_leave_one_out_is_what_leaving_out_gives(self):
        W = noise(5, 30)
        rule = Rule(Kernel(SquaredExponential(1.3), ridge=0.2), 0.3, 2, Grid((5, 6)))
        predictor = FilterPredictor(rule, W.shape, seed=3)
        xy = np.array([(r, c) for r in range(5) for c in range(6)], dtype=float)
        K = np.exp(-((xy[:, None] - xy[None]) ** 2).sum(2) / (2 * 1.3**2))
        wrong = total = 0.0
        for w, known in zip(W.numpy(), predictor.known.numpy(), strict=True):
            for left_out_one in known:
                others = known[known != left_out_one]
                gram = K[np.ix_(others, others)] + 0.2 * np.eye(len(others))
                guess = K[left_out_one, others] @ np.linalg.solve(gram, w[others])
                wrong += (w[left_out_one] - guess) ** 2
                total += w[left_out_one] ** 2
        assert predictor.leave_one_out(W) == pytest.approx(1 - wrong / total, rel=1e-9)
        assert predictor.leave_one_out(torch.zeros_like(W)) == 0

    def test_takes_a_wide_kernel_for_smooth_filters_and_a_narrow_one_for_noise(self):
        grid = Grid((12, 12))
        [smooth] = predict_filters(bumps(grid, 20), grid, CANDIDATES, columns=4, fractions=[0.25])
        [rough] = predict_filters(noise(20, 144), grid, CANDIDATES, columns=4, fractions=[0.25])
        assert smooth.dictionary == Kernel(SquaredExponential(2.0), ridge=1e-4)
        assert rough.dictionary.kernel == SquaredExponential(0.5)

    def test_looks_at_known_weights_alone(self):
        grid = Grid((12, 12))
        W = bumps(grid, 8)
        [first] = predict_filters(W, grid, CANDIDATES, columns=2, fractions=[0.2])
        spoilt = noise(8, 144).scatter(1, first.known, W.gather(1, first.known))
        [second] = predict_filters(spoilt, grid, CANDIDATES, columns=2, fractions=[0.2])
        assert second.dictionary == first.dictionary
        assert second.predicted.equal(first.predicted)

    def test_candidates_share_their_known_positions(self):
        W = noise(4, 144)
        known = [
            predict_filters(W, Grid((12, 12)), [c], columns=2, fractions=[0.1], seed=5)[0].known
            for c in CANDIDATES
        ]
        assert all(k.equal(known[0]) for k in known)

    def test_without_candidates_is_refused(self):
        with pytest.raises(ValueError, match="no kernel to predict filters with"):
            predict_filters(noise(2, 9), Grid((3, 3)), [], columns=1)


class TestShares:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_smooth_filters_are_predicted_and_white_noise_by_the_fraction(self, channels):
        grid = Grid((12, 12), channels)
        smooth, rough = bumps(grid, 30), noise(30, grid.n_visible)
        for W, low, high in ((smooth, 0.99, 1.0), (rough, 0.2, 0.3)):
            [p] = predict_filters(W, grid, CANDIDATES, columns=5, fractions=[0.25])
            assert low < p.r2 <= high

    def test_random_atoms_explain_the_fraction_of_smooth_filters_and_of_noise(self):
        grid = Grid((12, 12))
        smooth = bumps(grid, 60)
        smooth = smooth - smooth.mean(dim=1, keepdim=True)
        for W in (smooth, noise(60, 144)):
            for fraction in (0.1, 0.5):
                assert random_r2(W, fraction, columns=10) == pytest.approx(fraction, abs=0.04)
        assert random_r2(noise(3, 20), 1.0, columns=1) == pytest.approx(1)

    def test_random_atoms_are_the_projection_of_least_squares(self):
        W = noise(4, 12)
        from weightcast.dictionaries import RandomGaussian

        generator = torch.Generator().manual_seed(2)
        U = RandomGaussian("orthonormal")
        atoms = Rule(U, 0.5).build(12, 4, generator=generator).dictionaries()[0]
        assert random_r2(W, 0.5, 1, seed=2) == pytest.approx(explained(W, W @ atoms @ atoms.t()))

    def test_shown_filters_are_of_the_fraction_nearest_a_quarter(self):
        grid = Grid((12, 12), 2)
        W = bumps(grid, 7)
        predictions = predict_filters(
            W, grid, CANDIDATES[:1], columns=2, fractions=[0.05, 0.3, 0.9]
        )
        shown = shown_filters(predictions, grid, 20)
        assert [item["r2"] for item in shown] == sorted(item["r2"] for item in shown)
        assert sorted(item["unit"] for item in shown) == list(range(7))  # 20 are not there
        for item in shown:
            assert len(item["known"]) == 43  # half of 30 % of 288: the first channel's
            assert item["true"] == pytest.approx(W[item["unit"], :144].tolist(), rel=6e-3)


class TestTrials:
    def test_have_one_run_of_each_network_and_seed(self):
        found = trials("cpu", 2, "mnist", "cifar10")
        assert [(t.config.network, t.config.data, t.config.seed) for t in found] == [
            (network, data, seed)
            for seed in (0, 1)
            for network, data in (
                ("mlp", "mnist"),
                ("mlp", "mnist"),
                ("convnet", "cifar10"),
                ("autoencoder", PHOTOGRAPHS),
                ("rica", PHOTOGRAPHS),
            )
        ]
        assert [t.config.labels["network"] for t in found[:5]] == [
            "MLP on MNIST, weight decay 0.5",
            "MLP on MNIST, weight decay 0.01",
            "convnet on CIFAR-10, weight decay 1",
            "autoencoder on natural image patches",
            "reconstruction ICA on natural image patches",
        ]
        assert left_out("mnist", "cifar10") == []

    def test_leave_out_the_convnet_without_colour_and_say_so(self):
        found = trials("smoke", 1)
        assert [t.config.network for t in found] == ["mlp", "mlp", "autoencoder", "rica"]
        assert found[0].config.data == "digits"
        notes = left_out("digits", None)
        assert "5,000 packaged digits, not on MNIST" in notes[0]
        assert "convnet on CIFAR-10 is left out" in notes[1]

    @pytest.mark.parametrize("preset", ["smoke", "cpu", "full"])
    def test_survive_json(self, preset):
        found = trials(preset, 2, "mnist", "cifar10")
        assert len({trial.key for trial in found}) == len(found) == 10
        for trial in found:
            again = Trial.from_json(trial.to_json())
            assert again.config == trial.config
            assert again.key == trial.key

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("cpu", 0), "seeds is 0: every point needs at least 1 run"),
            (("big", 1), "there is no preset 'big'; known: cpu, full, smoke"),
        ],
    )
    def test_refuse_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            trials(*arguments)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"network": "mpl"},
                "network is 'mpl', none of 'mlp', 'convnet', 'autoencoder', 'rica'",
            ),
            ({"n_train": 0}, "n_train is 0: take 1 or more, or null for all images"),
            ({"columns": 0}, "columns is 0: it must be 1 or more"),
            ({"fractions": ()}, "fractions is empty: give at least one"),
            ({"fractions": (0.5, 1.5)}, r"fraction is 1\.5"),
            ({"length_scales": (0.0,)}, "length_scale"),
            ({"ridges": (-1.0,)}, "ridge is -1"),
        ],
    )
    def test_bad_configs_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            FilterConfig(**({"network": "mlp", "data": "digits"} | changes))

    def test_an_unknown_field_names_its_neighbour(self):
        with pytest.raises(ValueError, match="no field 'column'; did you mean 'columns'"):
            FilterConfig.from_dict({"network": "mlp", "data": "digits", "column": 3})


class TestRun:
    training = TrainingSettings(epochs=1, batch_size=20)

    def config(self, network, data, **changes):
        small = {"n_train": 40, "patch_size": 6, "n_patches": 300, "n_features": 9}
        return FilterConfig(network, data, self.training, **(small | changes))

    @pytest.mark.parametrize(
        ("network", "data", "shape", "n_visible", "n_filters"),
        [
            ("mlp", "grey", [12, 12], 144, 500),
            ("mlp", "colour", [12, 12], 432, 500),
            ("convnet", "colour", [8, 8], 192, 48),
            ("autoencoder", PHOTOGRAPHS, [6, 6], 36, 9),
            ("rica", PHOTOGRAPHS, [6, 6], 36, 9),
            ("rica", "colour", [6, 6], 108, 9),
        ],
    )
    def test_gives_a_row_and_a_figure_that_the_report_draws(
        self, sources, network, data, shape, n_visible, n_filters, unmoved_randomness
    ):
        config = self.config(network, data, seed=1)
        row = run(config, Place(data={data: f"over/there/{data}"} if data != PHOTOGRAPHS else None))
        assert sources == ([] if data == PHOTOGRAPHS else [f"over/there/{data}"])
        assert row["labels"]["network"] == row["variant"]
        assert row["counts"]["n_filters"] == n_filters
        assert row["counts"]["n_visible"] == n_visible
        assert FilterConfig.from_dict(row["config"]) == config
        figure = row["figure"]
        assert figure["shape"] == shape
        assert {"shape", "filters", "r2", "description"} <= figure.keys()
        for share in figure["r2"]:
            assert share["n_atoms"] == round(share["fraction"] * n_visible)
            assert row["metrics"][f"r2_at_{share['fraction']:g}"] == share["r2"]
            assert row["metrics"][f"random_r2_at_{share['fraction']:g}"] == share["random_r2"]
        assert len(figure["filters"]) == 4
        json.dumps(row, allow_nan=False)

    def test_the_figure_renders(self, sources):
        figure = run(self.config("rica", PHOTOGRAPHS), Place())["figure"]
        for item in figure["filters"]:
            images = filter_images(item["true"], item["known"], item["predicted"], figure["shape"])
            assert len(set(images)) == 3
        assert "reconstruction ICA on natural image patches" in figure["description"][0]

    @pytest.mark.parametrize("network", ["convnet", "autoencoder", "rica"])
    def test_the_same_config_gives_the_same_row(self, sources, network):
        config = self.config(network, "colour", seed=2)
        rows = [run(config, Place()) for _ in range(2)]
        for row in rows:
            row["metrics"].pop("train_seconds", None)
        assert rows[0] == rows[1]
        other = run(self.config(network, "colour", seed=3), Place())
        assert other["figure"]["filters"] != rows[0]["figure"]["filters"]

    def test_training_images_are_spread_over_the_data(self, sources):
        row = run(self.config("convnet", "colour", n_train=30), Place())
        assert row["counts"]["train_images"] == 30
        x, y = torch.arange(10.0)[:, None], torch.arange(10)
        assert spread((x, y), 4)[1].tolist() == [0, 3, 6, 9]
        assert spread((x, y), None)[1].equal(y)
        assert spread((x, y), 11)[1].equal(y)

    def test_patches_larger_than_the_images_are_refused(self, sources):
        with pytest.raises(ValueError, match="take a patch size between 1 and 12"):
            run(self.config("rica", "colour", patch_size=13), Place())
