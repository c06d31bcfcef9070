"""PredictedModule: a module that reads its weights itself, split so that these weights are layers.

``nn.MultiheadAttention``, the recurrent layers and fused experts hand their weights to functions of
their own. A layer in a weight's place would never be called. So every weight becomes a layer of its
own (dense, or predicted), and each call lends the module the weights that these compute, once.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from weightcast.layers.adapted import AdaptedLayer
from weightcast.layers.leaf import Leaf
from weightcast.weight import PredictedWeight

Part = tuple[nn.Module, Mapping[str, str]]
"""A dense layer that holds a weight of a module; paths in the module to the layer's attributes."""

Splittable = TypeVar("Splittable", bound=nn.Module)


class _Lock:
    """A lock that shallow copies share, and others have of their own."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def __copy__(self) -> Self:
        return self


class PredictedModule(Leaf, ABC, Generic[Splittable]):
    """A module without its weights, and the layers that it borrows them from.

    Attributes of the module are found here too; its weights are computed at each access. The given
    module is left as it is, and shares all parameters with this one.
    """

    module: Splittable
    _sources: dict[str, tuple[str, str]]
    """A path in the module, to the layer and its attribute that give the tensor there."""

    def __init__(self, module: Splittable) -> None:
        super().__init__()
        self._sources = {}
        for name, (layer, tensors) in self.weights_of(module).items():
            self.add_module(name, layer.train(module.training))
            self._sources |= {path: (name, attribute) for path, attribute in tensors.items()}
        self._lending = _Lock()
        self.module = _without(module, self._sources)
        self.training = module.training
        self._lend({})

    @classmethod
    @abstractmethod
    def weights_of(cls, module: Splittable) -> Mapping[str, Part]:
        """The weights that a module reads itself, by the names of their layers.

        ``ValueError`` for a weight that is computed, and no parameter.
        """

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """Call the layers on their weights' inputs, where these are known, so that hooks see them.

        Arguments as for the module.
        """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns, with the weights that the layers compute."""
        layers = self.layers().values()
        if any(layer._forward_pre_hooks or layer._forward_hooks for layer in layers):
            self.observe(*args, **kwargs)
        return self._call(self._tensors(), *args, **kwargs)

    def layers(self) -> dict[str, nn.Module]:
        """The layers that the module borrows its weights from, by name."""
        return {name: child for name, child in self.named_children() if name != "module"}

    def join(self) -> Splittable:
        """The module with its parameters back; the layers must be dense: merge predicted ones."""
        self._lend(self._tensors())
        return self.module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules, sources = self.__dict__.get("_modules", {}), self.__dict__.get("_sources", {})
            if name in sources:
                layer, attribute = sources[name]
                return getattr(modules[layer], attribute)
            if "module" not in modules or name.startswith("__"):
                raise
            return getattr(modules["module"], name)

    def _tensors(self) -> dict[str, Tensor]:
        """Every weight, computed now, by its path in the module."""
        layers = self.layers()
        return {path: _tensor(layers[n], key) for path, (n, key) in self._sources.items()}

    def _call(self, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        # One thread at a time: the module holds what it was lent. A traced graph holds it itself.
        with nullcontext() if torch.compiler.is_compiling() else self._lending.lock:
            self._lend(tensors)
            try:
                return self.module(*args, **kwargs)
            finally:
                self._lend({})

    def _lend(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors in the places of the module's parameters; None where there is none."""
        for path in self._sources:
            owner, _, name = path.rpartition(".")
            self.module.get_submodule(owner)._parameters[name] = tensors.get(path)  # pyright: ignore[reportArgumentType]

    def _replicate_for_data_parallel(self) -> Self:
        raise ValueError(
            "DataParallel runs copies of a module at once, and a split module lends its weights: "
            "use DistributedDataParallel"
        )


def _tensor(layer: nn.Module, name: str) -> Any:
    """A layer's weight or bias, for its module alone to read."""
    if name == "weight" and isinstance(layer, (PredictedWeight, AdaptedLayer)):
        return layer.multiply_out()
    return getattr(layer, name)


def plain_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """A module's own parameter; ``ValueError`` if it is computed instead."""
    parameter = module._parameters.get(name)
    if parameter is None:
        raise ValueError(
            f"its {name} is no plain parameter (weight norm, pruning or the like): remove that "
            "first, or leave the module dense"
        )
    return parameter


def _without(module: Splittable, paths: Iterable[str]) -> Splittable:
    """A shallow copy of a module that lacks the parameters at some paths."""
    bare = copy.copy(module)
    bare._parameters, bare._modules = dict(module._parameters), dict(module._modules)
    inner: dict[str, list[str]] = {}
    for path in paths:
        child, dot, rest = path.partition(".")
        if dot:
            inner.setdefault(child, []).append(rest)
        else:
            bare._parameters[child] = None
    for name, below in inner.items():
        bare._modules[name] = _without(module.get_submodule(name), below)
    return bare
