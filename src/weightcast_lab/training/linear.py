"""A linear classifier on fixed features, its penalty chosen without the test images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from weightcast_lab.data.images import Split

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 penalty to choose among."""


@dataclass(frozen=True)
class LinearResult:
    """What a linear classifier gave.

    Args:
        test_error: wrong answers on the test features, in percent; measured once.
        validation_error: the same on the fifth of the training features that chose the penalty.
        penalty: the inverse strength that was chosen.
    """

    test_error: float
    validation_error: float
    penalty: float


def classify(train: Split, test: Split) -> LinearResult:
    """Fit logistic regression to standardised features.

    Args:
        train: features (n, n_features) and labels (n,), at least 10; the last fifth chooses the
            penalty, then all are fitted again.
        test: the same, to be measured once.

    Raises:
        ValueError: too few training examples.
    """
    (x, y), (x_test, y_test) = train, test
    if len(y) < 10:
        raise ValueError(f"{len(y)} training examples: a classifier and its penalty need 10")
    deviation, mean = torch.std_mean(x, dim=0)
    x, x_test = ((features - mean) / (deviation + 1e-6) for features in (x, x_test))
    n_fit = len(y) - len(y) // 5
    errors = [
        _error((x[:n_fit], y[:n_fit]), (x[n_fit:], y[n_fit:]), penalty) for penalty in PENALTIES
    ]
    best = errors.index(min(errors))
    test_error = _error((x, y), (x_test, y_test), PENALTIES[best])
    return LinearResult(test_error, errors[best], PENALTIES[best])


def _error(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], penalty: float) -> float:
    """Wrong answers in percent."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (x, y), (x_test, y_test) = train, test
    with warnings.catch_warnings():
        # 100 steps are part of the recipe: weak penalties take thousands to converge, and their
        # error changes little by it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=penalty, max_iter=100).fit(x.numpy(), y.numpy())
    return 100 * float((model.predict(x_test.numpy()) != y_test.numpy()).mean())
