"""Kernels: values and refusals (agreement with scikit-learn is in tests/oracle)."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.gaussian_process import kernels as sk

import weightcast as wc
from weightcast import kernels as k


def _value(kernel, *offset: float) -> float:
    origin = torch.zeros(1, len(offset), dtype=torch.float64)
    return float(kernel(origin, torch.tensor([offset], dtype=torch.float64)))


def test_values_by_hand():
    # a 3-4-5 triangle: the distance is Euclidean, not the sum of the axes' distances
    assert _value(k.SquaredExponential(2.5), 3, 4) == pytest.approx(math.exp(-2))
    assert _value(k.Exponential(2.5), 3, 4) == pytest.approx(math.exp(-2))
    t = math.sqrt(3) * 2
    assert _value(k.Matern(1.5, 2.5), 3, 4) == pytest.approx((1 + t) * math.exp(-t))
    t = math.sqrt(5) * 2
    assert _value(k.Matern(2.5, 2.5), 3, 4) == pytest.approx((1 + t + t * t / 3) * math.exp(-t))


@pytest.mark.parametrize(
    "kernel", [k.SquaredExponential(), k.Exponential(), k.Matern(), k.ScikitLearnKernel(sk.RBF())]
)
def test_a_coordinate_has_covariance_one_with_itself(kernel):
    assert _value(kernel, 0.0, 0.0) == 1


@pytest.mark.parametrize("make", [k.SquaredExponential, k.Exponential, lambda v: k.Matern(1.5, v)])
@pytest.mark.parametrize("length_scale", [0, -1.5, math.nan, math.inf])
def test_length_scales_are_positive_and_finite(make, length_scale):
    with pytest.raises(ValueError, match=rf"length_scale is {length_scale}.*positive and finite"):
        make(length_scale)


@pytest.mark.parametrize("nu", [0.5, 2, 3.5, math.nan])
def test_matern_has_two_orders(nu):
    with pytest.raises(ValueError, match=rf"nu=1.5 or 2.5, got {nu}.*Exponential is nu=0.5"):
        k.Matern(nu)


@pytest.mark.parametrize("wrong", ["rbf", None, 2.0, k.Matern, lambda a, b: a])
def test_what_is_no_kernel_is_refused(wrong):
    with pytest.raises(ValueError, match=r"a kernel is one of weightcast.kernels"):
        k.as_kernel(wrong)
    with pytest.raises(ValueError, match=r"a kernel is one of weightcast.kernels"):
        wc.dictionaries.Kernel(wrong)


def test_noise_is_no_part_of_the_covariance():
    points = wc.Grid((3,)).coordinates()
    with_noise = k.ScikitLearnKernel(sk.RBF(1.0) + sk.WhiteKernel(5.0))
    torch.testing.assert_close(
        with_noise(points, points), k.SquaredExponential(1.0)(points, points)
    )


@pytest.mark.parametrize(
    "kernel",
    [
        sk.RBF(1.5),
        sk.RBF([1.0, 2.0]),
        sk.Matern(2.0, nu=0.5, length_scale_bounds="fixed"),
        2.0 * sk.RationalQuadratic(1.0, 0.5) + sk.WhiteKernel(),
        sk.ExpSineSquared() ** 2,
        sk.DotProduct(0.5) * sk.ConstantKernel(3.0),
    ],
    ids=str,
)
def test_scikit_learn_kernels_have_a_json_form(kernel):
    ours = k.ScikitLearnKernel(kernel)
    plan = wc.Plan({"0": wc.Rule(wc.dictionaries.Kernel(ours), 0.5)})
    again = wc.Plan.from_json(plan.to_json())
    points = wc.Grid((2, 3)).coordinates()
    other = again.rules["0"].dictionary.kernel
    assert torch.equal(other(points, points), ours(points, points))
    assert wc.Plan.from_json(again.to_json()).to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ({"kind": "SquaredExponentail"}, "did you mean 'SquaredExponential'"),
        ({"kind": "SquaredExponential", "length_scal": 2}, "did you mean 'length_scale'"),
        ({"kind": "Matern", "nuu": 2}, "did you mean 'nu'"),
        ({"kind": "Matern", "nu": 0.5}, "nu=1.5 or 2.5"),
        ({"kind": "RBF", "length_scale": 2.0}, "RBF"),
        ({"kind": "SquaredExponential", "length_scale": -1}, "must be positive"),
        ({"kind": "SquaredExponential", "length_scale": "2"}, "expected float, got '2'"),
        ({"kind": "ScikitLearnKernel", "kernel": {"kind": "RFB"}}, "did you mean 'RBF'"),
        ({"kind": "ScikitLearnKernel", "kernel": {"kind": "RBF", "lengthscale": 1}}, "lengthscale"),
        ({"kind": "ScikitLearnKernel"}, "one field, 'kernel'"),
        ({"kind": "ScikitLearnKernel", "kernel": "RBF"}, "'RBF' is no kernel of scikit-learn"),
        ({"kind": "ScikitLearnKernel", "kernel": {"kind": ["RBF"]}}, "is no kernel of scikit-"),
        ({}, "add 'kind'"),
    ],
)
def test_json_mistakes_are_named(kernel, message):
    dictionary = {"kind": "Kernel", "kernel": kernel}
    with pytest.raises(ValueError, match=message):
        wc.Plan.from_dict({"rules": {"0": {"dictionary": dictionary, "fraction": 0.5}}})


def test_kernels_of_kernels_come_to_an_end():
    kernel = sk.RBF()
    for _ in range(15):
        kernel = kernel + sk.RBF()
    k.ScikitLearnKernel(kernel)  # 16, and the 15 sums of two
    with pytest.raises(ValueError, match="a kernel of 33 kernels: at most 32"):
        k.ScikitLearnKernel(kernel + sk.RBF())
