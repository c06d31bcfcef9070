"""Our own dictionaries and layers pass the checks that strangers may use."""

import pytest
import torch

from tests.contract.table import DICTIONARIES, LAYERS, make_dictionary
from weightcast.layers import PREDICTED, DenseParameter
from weightcast.testing import check_dictionary, check_layer


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionary(name):
    row = DICTIONARIES[name]
    check_dictionary(
        make_dictionary(name, 24), full_rank=row.full_rank, orthonormal=row.orthonormal
    )


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    row = LAYERS[name]
    check_layer(row.predicted, row.build_dense(), row.inputs(), row.rule(columns=2))


def examples():
    """Layers of torch, and the weight of a module that reads it itself, which needs an example."""
    weight = torch.nn.Parameter(torch.empty(35, 24))
    torch.nn.init.kaiming_uniform_(weight, 5**0.5, generator=torch.Generator().manual_seed(0))
    given = {DenseParameter: (DenseParameter(weight), [torch.randn(5, 24)])}
    return [(PREDICTED[kind], *given.get(kind, ())) for kind in PREDICTED]


@pytest.mark.parametrize("arguments", examples(), ids=lambda arguments: arguments[0].__name__)
def test_layer_class_by_itself(arguments):
    check_layer(*arguments)
