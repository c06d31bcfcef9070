"""observing: the inputs or outputs of single layers when a model runs, and the layers' order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from weightcast.inputs.batches import InputsError, call
from weightcast.inputs.undisturbed import evaluating
from weightcast.layers import split_module, view

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


def execution_order(model: nn.Module, names: Iterable[str], batch: Any) -> dict[str, Tensor]:
    """The layers that one batch reaches, in the order of their first calls, with their inputs."""
    seen: dict[str, Tensor] = {}

    def take(name: str, _: nn.Module, inputs: list[Tensor]) -> None:
        seen.setdefault(name, inputs[0].detach())

    with observing(model, names, take):
        call(model, batch)
    return seen


def layers_run(model: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> list[str]:
    """The layers that the batches reach, in the order in which the model runs them.

    A single row, which is all that an expert of a mixture may get, has no statistics: layers with
    fewer than 2 rows count as not reached, unless all layers have so few.
    """
    n_rows: dict[str, int] = {}
    called: dict[str, None] = {}
    order: list[str] = []

    def take(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        called[name] = None
        if n_rows.setdefault(name, 0) < 2:
            n_rows[name] += len(view(layer).input_rows(*inputs))

    with observing(model, names, take):
        for batch in batches:
            called.clear()
            call(model, batch)
            # A layer that is new in this batch goes right after the one that ran before it.
            place = 0
            for name in called:
                if name not in order:
                    order.insert(place, name)
                place = order.index(name) + 1
    return [name for name in order if n_rows[name] > 1] or order


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
