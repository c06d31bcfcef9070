"""register_layer: a layer type of one's own, checked, then known to every verb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from torch import nn

from weightcast.layers import PREDICTED, PredictedLayer
from weightcast.testing.check_layer import check_layer

Predicted = TypeVar("Predicted", bound=PredictedLayer)


@overload
def register_layer(
    layer_class: type[Predicted], *, dense: nn.Module, inputs: Sequence[Any]
) -> type[Predicted]: ...


@overload
def register_layer(
    layer_class: None = None, *, dense: nn.Module, inputs: Sequence[Any]
) -> Callable[[type[Predicted]], type[Predicted]]: ...


def register_layer(
    layer_class: type[Predicted] | None = None, *, dense: nn.Module, inputs: Sequence[Any]
) -> type[Predicted] | Callable[[type[Predicted]], type[Predicted]]:
    """Let ``convert``, ``compress``, ``save``, ``load`` and the others know a layer type.

    From then on, in this process, layers of exactly the class ``layer_class.dense_class`` can be
    predicted; a saved folder with them loads only where the type is registered too. The class must
    pass :func:`weightcast.testing.check_layer`, which takes about a second.

    Args:
        layer_class: a subclass of :class:`weightcast.PredictedLayer` that names its ``dense_class``
            and ``view_class``; None makes this a decorator.
        dense: a small, freshly drawn dense layer to check it with.
        inputs: what ``dense`` is called with.

    Returns:
        The class, or without one a decorator.

    Raises:
        ValueError: a class that is none of these, fails a check, or whose dense class can be
            predicted already.
    """
    if layer_class is None:
        return lambda decorated: register_layer(decorated, dense=dense, inputs=inputs)
    name, kind = layer_class.__name__, getattr(layer_class, "dense_class", None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{name} has dense_class {kind!r}: set it to the class that it replaces")
    if kind in PREDICTED:
        raise ValueError(
            f"{kind.__name__} is predicted by {PREDICTED[kind].__name__} already: give {name} a "
            "dense_class of its own, and register each once"
        )
    if "." not in layer_class.__qualname__:  # a decorator is called before its class has a name
        vars(sys.modules[layer_class.__module__])[name] = layer_class  # by which it is pickled
    try:
        check_layer(layer_class, dense, inputs)
    except AssertionError as error:
        raise ValueError(f"{name} is not registered: {error}") from error
    PREDICTED[kind] = layer_class
    return layer_class
