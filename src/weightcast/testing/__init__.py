"""Checks for dictionaries and layers of your own, after scikit-learn's ``check_estimator``.

They need no test runner: each returns None where all is well, and raises an AssertionError whose
message names the check, the numbers and what they should have been::

    from weightcast.testing import check_dictionary, check_layer

    check_dictionary(Polynomials())
    check_layer(PredictedLinear)
"""

from weightcast.testing.check_dictionary import check_dictionary
from weightcast.testing.check_layer import check_layer
from weightcast.testing.example_layers import example_rows, example_statistics
from weightcast.testing.register import register_layer

__all__ = ["check_dictionary", "check_layer", "example_rows", "example_statistics"]
__all__ += ["register_layer"]
