"""observing: the inputs or outputs of single layers when a model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from weightcast.inputs.batches import InputsError
from weightcast.inputs.undisturbed import evaluating
from weightcast.layers import split_module

Take = Callable[[str, nn.Module, Any], None]
"""Called with a layer's name, the layer, and its inputs as a list of tensors, or its output."""


@contextmanager
def observing(
    model: nn.Module, names: Iterable[str], take: Take, *, outputs: bool = False
) -> Iterator[None]:
    """Within, the model runs undisturbed, and ``take`` is called at each call of some layers.

    Weights of modules that read them themselves (``lstm.ih_l0``) are layers too, as
    ``convertible_layers`` names them. Nothing is put in the module's place: at each call of it a
    split form, which shares its parameters, calls these layers on the inputs of their weights.
    With ``outputs`` it is what layers return that is taken. A ValueError of ``take`` becomes an
    :class:`InputsError`.
    """
    splits: dict[str, dict[str, nn.Module]] = {}
    with evaluating(model), ExitStack() as handles:
        for name in names:
            parent, _, part = name.rpartition(".")
            if parent not in splits:
                splits[parent] = _split_beside(model.get_submodule(parent), handles)
            layer = splits[parent].get(part) or model.get_submodule(name)
            handles.enter_context(_hooked(name, layer, take, outputs))
        yield


def layer_inputs(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> list[Tensor]:
    """The tensors that a layer was called with, by place or by name, in its forward's order."""
    bound = inspect.signature(layer.forward).bind(*arguments, **keywords)
    return [x for x in bound.arguments.values() if isinstance(x, Tensor)]


def _hooked(name: str, layer: nn.Module, take: Take, outputs: bool) -> RemovableHandle:
    """A hook on the layer that calls ``take``."""

    def tell(what: Any) -> None:
        try:
            take(name, layer, what)
        except ValueError as error:
            raise InputsError(str(error)) from error

    if outputs:
        return layer.register_forward_hook(lambda _, __, output: tell(output))
    return layer.register_forward_pre_hook(
        lambda _, arguments, keywords: tell(layer_inputs(layer, arguments, keywords)),
        with_kwargs=True,
    )


def _split_beside(owner: nn.Module, handles: ExitStack) -> dict[str, nn.Module]:
    """The weights that a module in evaluation mode reads, as layers called whenever it is."""
    split = split_module(owner)
    if split is None:
        return {}
    layers = split.layers()

    def observe(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in layers.values())
        if hooked and module is owner:  # not its copy in the split form, which has the same hooks
            split.observe(*arguments, **keywords)

    handles.enter_context(owner.register_forward_pre_hook(observe, with_kwargs=True))
    return layers
