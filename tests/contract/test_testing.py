"""Our own dictionaries and layers pass the checks that strangers may use."""

import pytest

from tests.contract.table import DICTIONARIES, LAYERS, make_dictionary
from weightcast.layers import PREDICTED
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
    check_layer(row.predicted, row.build_dense(), [row.example()], row.rule(columns=2))


@pytest.mark.parametrize("kind", PREDICTED, ids=lambda kind: kind.__name__)
def test_layer_class_by_itself(kind):
    check_layer(PREDICTED[kind])
