"""swap: the one place where layers of a model are replaced by others.

``convert``, ``merge``, ``compress`` and ``load`` say which layers, and what each becomes. Modules
that read their weights themselves are split first, so that each weight is a layer, and joined when
all these layers are dense again. Layers of one weight (twins) share V, and every layer keeps its
own bias's tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import nn

from weightcast.layers import (
    AdaptedLayer,
    PredictedLayer,
    PredictedModule,
    find_view,
    split_class,
    split_module,
    view,
)
from weightcast.layers.models import Model, copied, copying
from weightcast.plan.eligibility import convertible_layers
from weightcast.transform.hf_config import note_in_config

NOT_DENSE = (PredictedLayer, AdaptedLayer)

Make = Callable[[str, Any, nn.Module, Any], Any]
"""The new layer, from the name, the old layer, the model so far, and the new twin or None."""


def swap(
    model: Model,
    names: Iterable[str],
    make: Make,
    *,
    inplace: bool = False,
    shared: dict[int, Any] | None = None,
) -> Model:
    """Replace layers one after the other, each as soon as it is made.

    A shared layer is replaced wherever the model holds it. Without ``inplace`` a copy is changed,
    which shares the weights that are replaced with the model, so that memory grows by the new
    layers only. ``shared`` says what stands in the copy for tensors of the model instead, by their
    identities. Whatever ``make`` raises, the model is then as it was.

    Raises:
        ValueError: ``inplace`` for a model that is itself one layer.
    """
    names = list(names)
    alone = isinstance(model, PredictedModule) or find_view(model) or split_class(model)
    if inplace and names and alone:
        raise ValueError(
            "the model is itself a single layer, which inplace=True cannot replace: use "
            "inplace=False and the model that is returned"
        )
    if not inplace:
        if shared is None:
            layers = dict(model.named_modules()) | convertible_layers(model)
            weights = [_learned(layers[name]) for name in names if name in layers]
            model = copied(model, sharing=weights)
        else:
            with copying(model):
                model = copy.deepcopy(model, dict(shared))
    places = _Places(model)
    try:
        for module, split in _splits(places.model, set(names)):
            places.put(module, split)
        made: dict[int, Any] = {}
        for name in names:
            layer: Any = places.model.get_submodule(name)
            twin = made.get(id(_learned(layer)))
            new = make(name, layer, places.model, twin)
            _tie(new, twin, layer)
            made.setdefault(id(_learned(layer)), new)
            places.put(layer, new)
        for module in [m for m in places.model.modules() if isinstance(m, PredictedModule)]:
            if not any(isinstance(layer, NOT_DENSE) for layer in module.layers().values()):
                places.put(module, module.join())
    except BaseException:
        places.take_back()
        raise
    note_in_config(places.model)
    return cast("Model", places.model)  # but for a model that is itself one layer


class _Places:
    """Where a model holds its modules, and what was put there."""

    def __init__(self, model: nn.Module) -> None:
        self._root = nn.ModuleDict({"model": model})  # so that the model can be replaced itself
        self._holders: dict[int, list[tuple[nn.Module, str]]] = {}
        self._done: list[tuple[nn.Module, nn.Module]] = []
        for module in list(self._root.modules()):
            self._note(module)

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        return self._root["model"]

    def put(self, old: nn.Module, new: nn.Module) -> None:
        """Put ``new`` wherever the model holds ``old``."""
        places = self._holders.pop(id(old), [])
        for parent, name in places:
            parent._modules[name] = new
        self._holders[id(new)] = places
        self._note(new)
        self._done.append((old, new))

    def take_back(self) -> None:
        """Put everything back, the last first."""
        for old, new in reversed(self._done):
            for parent, name in self._holders.pop(id(new), []):
                parent._modules[name] = old
                self._holders.setdefault(id(old), []).append((parent, name))

    def _note(self, parent: nn.Module) -> None:
        for name, child in parent._modules.items():
            if child is not None:
                self._holders.setdefault(id(child), []).append((parent, name))


def _learned(layer: Any) -> Any:
    """The tensor that twins share: V, or a dense weight; of an adapted layer the frozen one's."""
    layer = layer.frozen if isinstance(layer, AdaptedLayer) else layer
    return layer.V if isinstance(layer, PredictedLayer) else layer.weight


def _splits(model: nn.Module, wanted: set[str]) -> list[tuple[nn.Module, PredictedModule]]:
    """The modules that read wanted layers' weights themselves, and what each is split into."""
    splits = ((name, module, split_module(module)) for name, module in model.named_modules())
    return [
        (module, split)
        for name, module, split in splits
        if split and any(f"{name}.{part}".lstrip(".") in wanted for part in split.layers())
    ]


def _tie(new: Any, twin: Any, layer: Any) -> None:
    """Give a new layer its twin's V or weight, and the old layer's own bias, which may be tied."""
    if isinstance(new, AdaptedLayer):
        if twin is not None:
            new.delta.tie(twin.delta)
        return
    layer = layer.frozen if isinstance(layer, AdaptedLayer) else layer
    if twin is not None and isinstance(new, PredictedLayer):
        new.tie(twin)
    elif twin is not None:
        new.weight = twin.weight
    if view(layer).bias is not None:
        new.bias = layer.bias
