"""Hooked passes over example inputs: what single layers are given, and in which order they run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from weightcast.inputs.batches import InputsError, call
from weightcast.inputs.undisturbed import evaluating
from weightcast.layers import view


def watch(
    model: nn.Module, layer: nn.Module, inputs: Iterable[Any], take: Callable[..., None]
) -> None:
    """Run the model over the inputs, and give ``take`` the layer and its inputs at every call."""

    def given(_: str, module: nn.Module, inputs: list[Tensor]) -> None:
        try:
            take(module, *inputs)
        except ValueError as error:
            raise InputsError(str(error)) from error

    with _hooked({"": layer}, given), evaluating(model):
        for batch in inputs:
            call(model, batch)


def execution_order(
    model: nn.Module, layers: Mapping[str, nn.Module], batch: Any
) -> dict[str, Tensor]:
    """Run one batch, and list the layers in the order of their first call with their inputs.

    Layers that the model does not call are left out.
    """
    seen: dict[str, Tensor] = {}

    def take(name: str, _: nn.Module, inputs: list[Tensor]) -> None:
        seen.setdefault(name, inputs[0].detach())

    with _hooked(layers, take), evaluating(model):
        call(model, batch)
    return seen


def layers_run(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Iterable[Any]
) -> list[str]:
    """The layers that the batches reach, in the order in which the model runs them.

    Nothing can be said of a single row, which is all that some expert of a mixture may get: layers
    of fewer than 2 rows count as not reached. Unless all have as few: then inputs are missing.

    Args:
        model: run over the batches.
        layers: inside it, by name, that multiply inputs.
        batches: example inputs.
    """
    n_rows: dict[str, int] = {}
    called: dict[str, None] = {}
    order: list[str] = []

    def take(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        called[name] = None
        if n_rows.setdefault(name, 0) < 2:
            n_rows[name] += len(view(layer).input_rows(*inputs))

    with _hooked(layers, take), evaluating(model):
        for batch in batches:
            called.clear()
            call(model, batch)
            place = 0  # what earlier batches did not reach comes after what it follows in this one
            for name in called:
                if name not in order:
                    order.insert(place, name)
                place = order.index(name) + 1
    return [name for name in order if n_rows[name] > 1] or order


def layer_inputs(
    layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> list[Tensor]:
    """The tensors that a layer was called with, by place or by name, in its forward's order."""
    bound = inspect.signature(layer.forward).bind(*arguments, **keywords)
    return [x for x in bound.arguments.values() if isinstance(x, Tensor)]


@contextmanager
def _hooked(
    layers: Mapping[str, nn.Module], take: Callable[[str, nn.Module, list[Tensor]], Any]
) -> Iterator[None]:
    """Within, ``take`` gets name, layer and inputs at every call of one of the layers."""

    def hook_of(name: str) -> Any:
        def hook(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            take(name, layer, layer_inputs(layer, arguments, keywords))

        return hook

    handles = [
        layer.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
