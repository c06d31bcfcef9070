"""PredictedModule: a module that reads its weights itself, with these weights as layers beside it.

``nn.MultiheadAttention``, the recurrent layers and fused experts hand their weights to functions of
their own. A layer put in a weight's place would never be called, or would be read once and frozen.
So such a module is split: every weight becomes a layer of its own (dense, or predicted), and for
each call the module is lent the weights that these layers compute, once.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Self, TypeVar

from torch import Tensor, nn

Part = tuple[nn.Module, Mapping[str, str]]
"""A dense layer that holds one weight of a module, and where the module has the layer's tensors.

The latter is a mapping of a path in the module to an attribute of the layer.
"""

Splittable = TypeVar("Splittable", bound=nn.Module)


class PredictedModule(nn.Module, ABC, Generic[Splittable]):
    """A module without its weights, and the layers that it borrows them from.

    Attributes of the module are found here too; its weights are computed at each access.

    Args:
        module: any that :meth:`weights_of` finds weights in; it is left as it is, and shares all
            parameters with what is made of it.
    """

    module: Splittable

    def __init__(self, module: Splittable) -> None:
        super().__init__()
        sources: dict[str, tuple[str, str]] = {}
        for name, (layer, tensors) in self.weights_of(module).items():
            self.add_module(name, layer.train(module.training))
            sources |= {path: (name, attribute) for path, attribute in tensors.items()}
        self._sources = sources
        self.module = _without(module, self._sources)
        self.training = module.training
        self._lend({})

    _sources: dict[str, tuple[str, str]]
    """Where the module has a tensor, to the layer and the attribute that give it."""

    @classmethod
    @abstractmethod
    def weights_of(cls, module: Splittable) -> Mapping[str, Part]:
        """The weights that a module reads itself, by the names of their layers.

        Args:
            module: of a class that this one is for.

        Raises:
            ValueError: a weight that is computed, and no parameter.
        """

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """Call each layer on the inputs that its weight meets, for the sake of the layer's hooks.

        Arguments as for the module. Layers whose inputs are not known are not called.
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
        """The module, with its layers' own parameters in their places.

        All layers must be dense: merge predicted ones first.
        """
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
        return {path: getattr(layers[n], key) for path, (n, key) in self._sources.items()}

    def _call(self, tensors: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
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


def plain_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """A module's own parameter.

    Raises:
        ValueError: it is computed instead.
    """
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
