"""register_layer: a layer type of one's own, checked, then known to every verb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from torch import nn

from weightcast.layers import PREDICTED, PredictedLayer, View
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
    kind = _dense_class(layer_class)
    # Where a decorator is called, the class has no name yet; it is pickled by its name.
    vars(sys.modules[layer_class.__module__])[layer_class.__name__] = layer_class
    try:
        check_layer(layer_class, dense, inputs)
    except AssertionError as error:
        raise ValueError(f"{layer_class.__name__} is not registered: {error}") from error
    PREDICTED[kind] = layer_class
    return layer_class


def _dense_class(layer_class: type[PredictedLayer]) -> type[nn.Module]:
    """The dense class of one that may be registered."""
    if not (isinstance(layer_class, type) and issubclass(layer_class, PredictedLayer)):
        raise ValueError(f"{layer_class!r} is no subclass of PredictedLayer: derive it from that")
    name = layer_class.__name__
    for attribute, base in (("dense_class", nn.Module), ("view_class", View)):
        value = getattr(layer_class, attribute, None)
        if not (isinstance(value, type) and issubclass(value, base)):
            raise ValueError(
                f"{name}.{attribute} is {value!r}: set it to a subclass of {base.__name__}"
            )
    if "<locals>" in layer_class.__qualname__:
        raise ValueError(
            f"{name} is defined in a function, and models that hold it could not be pickled: "
            "define it at the top of a module"
        )
    kind = layer_class.dense_class
    if kind in PREDICTED:
        raise ValueError(
            f"{kind.__name__} is predicted by {PREDICTED[kind].__name__} already: give {name} a "
            "dense_class of its own, and register each once"
        )
    return kind
