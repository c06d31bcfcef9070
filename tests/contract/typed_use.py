"""What a type checker knows of the public interface; pyright reads this file in ``make lint``."""

from __future__ import annotations

from typing import assert_type

import torch
from sklearn.gaussian_process.kernels import RBF
from torch import Tensor, nn

import weightcast as wc
from weightcast.layers import View

PLAN = wc.Plan({"*": wc.Rule(wc.dictionaries.Kernel(RBF(2.0)), 0.5, grid=(2, 3))})


class Network(nn.Module):
    """A user's model, with a method of its own."""

    def score(self, x: Tensor) -> float:
        return float(x.sum())


def a_model_keeps_its_class(x: Tensor) -> None:
    predicted = wc.convert(Network(), PLAN)
    assert_type(predicted, Network)
    assert_type(predicted.score(x), float)
    assert_type(wc.compress(Network(), PLAN, x), Network)
    assert_type(wc.merge(predicted), Network)
    assert_type(wc.load("folder", Network()), Network)
    assert_type(wc.convert(nn.Sequential(), PLAN), nn.Sequential)
    assert_type(wc.__version__, str)


class Map(nn.Module):
    """A dense layer of a user's own."""


@wc.register_layer(dense=Map(), inputs=[torch.zeros(2)])
class Decorated(wc.PredictedLayer):
    dense_class, view_class = Map, View


def a_registered_class_keeps_its_name() -> None:
    assert_type(Decorated, type[Decorated])
    assert_type(wc.register_layer(Decorated, dense=Map(), inputs=[]), type[Decorated])
