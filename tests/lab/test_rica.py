"""Patches, whitening, reconstruction ICA and its features, against NumPy and explicit loops."""

import numpy as np
import pytest
import torch
from sklearn import decomposition
from sklearn.datasets import load_sample_images

from weightcast import dictionaries
from weightcast.layers import PredictedLinear
from weightcast_lab.data.natural_patches import (
    CONTRAST_FLOOR,
    Whitening,
    draw_patches,
    load_photographs,
    normalise,
)
from weightcast_lab.training.ica import (
    RicaSettings,
    dense_filters,
    pooled_features,
    reconstructed,
    rica_objective,
    train_rica,
)
from weightcast_lab.training.linear import PENALTIES, classify


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestPatches:
    def test_are_windows_of_the_images_in_the_order_of_a_convolutions_weight(self):
        images = torch.rand(3, 2, 7, 9, generator=seeded())
        patches = draw_patches(images, 4, 200, seeded(1))
        windows = {
            tuple(images[i, :, r : r + 4, c : c + 4].flatten().tolist())
            for i in range(3)
            for r in range(4)
            for c in range(6)
        }
        drawn = [tuple(patch) for patch in patches.tolist()]
        assert set(drawn) <= windows
        assert len(set(drawn)) > 60  # of 72: all places are drawn, not only some

    def test_every_place_is_drawn_equally_often(self):
        image = torch.arange(12.0).view(1, 3, 4)
        corners = draw_patches([image], 2, 6000, seeded())[:, 0]
        values, counts = corners.unique(return_counts=True)
        assert values.tolist() == [0, 1, 2, 4, 5, 6]
        assert counts.min() > 880  # 1000 each, give or take four standard deviations

    def test_images_may_differ_in_size(self):
        patches = draw_patches([torch.zeros(1, 5, 8), torch.ones(1, 9, 5)], 5, 50, seeded())
        assert patches.shape == (50, 25)
        assert set(patches.mean(dim=1).tolist()) == {0.0, 1.0}

    def test_the_same_seed_gives_the_same_patches(self, unmoved_randomness):
        images = torch.rand(2, 1, 6, 6, generator=seeded())
        first, again, other = (draw_patches(images, 3, 9, seeded(s)) for s in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)

    def test_normalise_takes_brightness_and_contrast_out(self):
        patches = draw(5, 16) * 0.2 + 0.4
        x = patches.numpy()
        expected = (x - x.mean(1, keepdims=True)) / np.sqrt(
            x.var(1, keepdims=True) + CONTRAST_FLOOR
        )
        np.testing.assert_allclose(normalise(patches).numpy(), expected, rtol=1e-12)
        assert normalise(torch.full((1, 9), 0.5)).equal(torch.zeros(1, 9))

    @pytest.mark.parametrize(
        ("size", "n", "message"),
        [
            (0, 5, "between 1 and 6"),
            (7, 5, r"7 x 7 pixels do not fit .* side is 6: take a patch size between 1 and 6"),
            (3, 0, "0 patches of 2 images: both must be 1 or more"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused(self, size, n, message):
        with pytest.raises(ValueError, match=message):
            draw_patches(torch.zeros(2, 1, 6, 8), size, n, seeded())

    def test_photographs_are_grey_and_half_as_large(self):
        photographs = load_photographs()
        assert len(photographs) == 2
        for photograph, picture in zip(photographs, load_sample_images().images, strict=True):
            grey = picture[:426] @ np.array([0.299, 0.587, 0.114]) / 255
            halved = grey.reshape(213, 2, 320, 2).mean(axis=(1, 3))
            np.testing.assert_allclose(photograph[0].numpy(), halved, atol=1e-6)


class TestWhitening:
    def test_gives_unit_covariance_and_is_symmetric(self):
        x = draw(400, 6) @ draw(6, 6, seed=1) + 3
        whitening = Whitening.of(x, regulariser=1e-12)
        np.testing.assert_allclose(np.cov(whitening(x).T), np.eye(6), atol=1e-8)
        assert whitening(x).mean(dim=0).abs().max() < 1e-12
        torch.testing.assert_close(whitening.P, whitening.P.t())

    def test_the_regulariser_is_added_to_each_variance(self):
        x = draw(300, 5) @ draw(5, 5, seed=1)
        C = np.cov(x.numpy().T)
        values, E = np.linalg.eigh(C)
        P = Whitening.of(x, regulariser=0.3).P.numpy()
        np.testing.assert_allclose(P, E @ np.diag((values + 0.3) ** -0.5) @ E.T, atol=1e-10)
        np.testing.assert_allclose(P @ C, C @ P, atol=1e-10)  # as the module says

    def test_keeps_the_leading_components_that_scikit_learn_finds(self):
        x = draw(300, 5) @ draw(5, 5, seed=1)
        z = Whitening.of(x, regulariser=1e-12, n_components=2)(x)
        model = decomposition.PCA(2, whiten=True).fit(x.numpy())
        expected = model.transform(x.numpy()) @ model.components_
        np.testing.assert_allclose(z.numpy(), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((draw(1, 4),), "2 patches or more, got 1"),
            ((draw(9, 4), 0.0), "regulariser is 0.0: it must be above 0"),
            ((draw(9, 4), float("nan")), "regulariser is nan"),
            ((draw(9, 4), 0.1, 5), "5 components of 4 pixels: take 1 to 4"),
            ((draw(9, 4), 0.1, 0), "0 components of 4 pixels"),
        ],
    )
    def test_refuses_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Whitening.of(*arguments)


class TestObjective:
    settings = RicaSettings(reconstruction=1.7, smoothing=0.05)

    def test_is_the_formula_patch_by_patch(self):
        z, W = draw(7, 5).numpy(), draw(4, 5, seed=1).numpy()
        expected = 0.0
        for x in z:
            h = np.array([w @ x for w in W])
            back = sum(h[k] * W[k] for k in range(4))
            expected += 1.7 * ((back - x) ** 2).sum() + sum(np.sqrt(h**2 + 0.05))
        value = rica_objective(torch.from_numpy(z), torch.from_numpy(W), self.settings)
        assert float(value) == pytest.approx(expected / 7, rel=1e-12)

    def test_its_gradient_is_that_of_finite_differences(self):
        z, W = draw(6, 4), draw(3, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: rica_objective(z, w, self.settings), [W])

    def test_the_gradient_of_V_is_U_transposed_times_that_of_W(self):
        layer = PredictedLinear(
            6,
            4,
            bias=False,
            dictionary=dictionaries.RandomGaussian(),
            fraction=0.5,
            dtype=torch.float64,
        )
        z, W = draw(9, 6), layer.weight.detach().requires_grad_()
        rica_objective(z, W, self.settings).backward()
        rica_objective(z, layer.weight, self.settings).backward()
        U = layer.atoms.dictionaries()[0]
        torch.testing.assert_close(layer.V.grad, U.t() @ W.grad.t())

    def test_reconstructed_is_one_for_orthonormal_filters_and_their_share_for_fewer(self):
        z, Q = draw(2000, 8), torch.linalg.qr(draw(8, 8, seed=1)).Q
        assert reconstructed(z, Q) == pytest.approx(1)
        assert reconstructed(z, Q[:2]) == pytest.approx(0.25, abs=0.02)
        assert reconstructed(z, torch.zeros(3, 8, dtype=torch.float64)) == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"reconstruction": 0.0}, "reconstruction is 0.0: it must be above 0"),
            ({"smoothing": -1.0}, "smoothing is -1.0"),
            ({"learning_rate": float("nan")}, "learning_rate is nan"),
            ({"epochs": -1}, "epochs is -1 and batch_size 500: at least 0 and 1"),
            ({"batch_size": 0}, "batch_size 0"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            RicaSettings(**changes)


class TestTraining:
    def test_finds_the_independent_sources_of_a_mixture(self):
        # Four sparse sources, rotated: rotations are all that whitening leaves to be found.
        sources = draw(4000, 4) * draw(4000, 4, seed=1).sign() * draw(4000, 4, seed=2).abs()
        sources = (sources / sources.std(dim=0)).float()
        Q = torch.linalg.qr(draw(4, 4, seed=3)).Q.float()
        layer = dense_filters(4, 4, seeded())
        settings = RicaSettings(epochs=30, batch_size=200, learning_rate=0.02)
        train_rica(layer, sources @ Q, settings, seeded())
        match = (layer.weight.detach() @ Q.t()).abs()  # one source a filter, in some order
        match = match / match.norm(dim=1, keepdim=True)
        assert match.max(dim=1).values.min() > 0.97
        assert sorted(match.argmax(dim=1).tolist()) == [0, 1, 2, 3]

    @pytest.mark.parametrize("predicted", [False, True])
    def test_lowers_the_objective_and_moves_only_what_is_learned(
        self, predicted, unmoved_randomness
    ):
        z = draw(600, 16, dtype=torch.float32)
        settings = RicaSettings(epochs=5, batch_size=100, learning_rate=0.02)

        def trained():
            layer = dense_filters(16, 8, seeded(1))
            if predicted:
                layer = PredictedLinear(
                    16,
                    8,
                    bias=False,
                    dictionary=dictionaries.Kernel(),
                    fraction=0.25,
                    columns=2,
                    grid=(4, 4),
                )
            before = rica_objective(z, layer.weight, settings)
            static = {name: c.clone() for name, c in layer.state_dict().items() if "atoms" in name}
            train_rica(layer, z, settings, seeded(2))
            assert rica_objective(z, layer.weight, settings) < before - 1
            assert all(layer.state_dict()[name].equal(c) for name, c in static.items())
            assert predicted == bool(static)
            return layer.weight.detach()

        assert trained().equal(trained())

    def test_no_epochs_leave_the_filters_as_they_were(self):
        layer = dense_filters(9, 5, seeded())
        before = layer.weight.detach().clone()
        assert before.abs().max() <= 1 / 3
        assert before.var() == pytest.approx(1 / 27, rel=0.4)
        train_rica(layer, draw(50, 9, dtype=torch.float32), RicaSettings(epochs=0), seeded())
        assert layer.weight.equal(before)

    def test_an_objective_that_explodes_is_an_error(self):
        layer = dense_filters(4, 4, seeded())
        settings = RicaSettings(learning_rate=1e12)
        with pytest.raises(ValueError, match="in epoch 1 of 10: take a learning_rate below 1000"):
            train_rica(layer, draw(2000, 4, dtype=torch.float32), settings, seeded())


class TestFeatures:
    def test_are_those_of_explicit_loops(self):
        x = torch.rand(3, 2, 8, 7, generator=seeded(), dtype=torch.float64)
        patches = normalise(draw_patches(x, 3, 100, seeded(1)).double())
        whitening, W = Whitening.of(patches), draw(4, 18, seed=2)
        size, stride = 3, 2
        rows, columns = [0, 2, 4], [0, 2, 4]  # 3 x 3 places: the first half is one of them
        expected = np.zeros((3, 4, 2, 4))
        for i in range(3):
            for a, r in enumerate(rows):
                for b, c in enumerate(columns):
                    patch = x[i, :, r : r + size, c : c + size].flatten().numpy()
                    patch = patch - patch.mean()
                    patch = patch / np.sqrt((patch**2).mean() + CONTRAST_FLOOR)
                    z = (patch - whitening.mean.numpy()) @ whitening.P.numpy()
                    quadrant = 2 * (a >= 1) + (b >= 1)
                    for k, w in enumerate(W.numpy()):
                        expected[i, quadrant, 0, k] += max(0, w @ z)
                        expected[i, quadrant, 1, k] += max(0, -w @ z)
        features = pooled_features(x, W, whitening, size, stride, batch=2)
        np.testing.assert_allclose(features.numpy(), expected.reshape(3, -1), atol=1e-10)

    def test_images_too_small_for_quadrants_are_refused(self):
        whitening = Whitening(torch.zeros(9), torch.eye(9))
        with pytest.raises(ValueError, match=r"4 x 9 have 1 x 4 places .* smaller stride"):
            pooled_features(torch.zeros(1, 1, 4, 9), torch.zeros(2, 9), whitening, 3, 2)


class TestClassify:
    def test_learns_what_is_linear_and_measures_in_percent(self, unmoved_randomness):
        x = draw(500, 6, dtype=torch.float32) * torch.tensor([1, 5, 0.1, 1, 1, 1.0]) + 2
        y = (x[:, 0] > 2).long()
        result = classify((x[:400], y[:400]), (x[400:], 1 - y[400:]))
        assert result.validation_error < 12
        assert result.test_error > 85  # the wrong labels of the test images had no say
        assert result.penalty in PENALTIES

    def test_features_without_variance_do_no_harm(self):
        x = torch.cat([draw(400, 1, dtype=torch.float32), torch.ones(400, 1)], dim=1)
        split = x, (x[:, 0] > 0).long()
        assert classify(split, split).test_error < 10

    def test_needs_ten_examples(self):
        with pytest.raises(ValueError, match=r"9 training examples: .* need 10"):
            classify((torch.zeros(9, 2), torch.zeros(9).long()), (torch.zeros(1, 2), torch.ones(1)))
