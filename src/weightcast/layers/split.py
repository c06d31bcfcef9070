"""split: modules that read their weights themselves, made to borrow them of layers instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from weightcast.layers.attention import PredictedMultiheadAttention
from weightcast.layers.composite import PredictedModule
from weightcast.layers.experts import PredictedExperts
from weightcast.layers.recurrent import PredictedRecurrent
from weightcast.layers.view import Refusal

SPLIT: dict[type[nn.Module], type[PredictedModule]] = {
    nn.MultiheadAttention: PredictedMultiheadAttention,
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), PredictedRecurrent),
}
"""What stands in for modules of torch that read their weights themselves."""


def split_class(module: nn.Module) -> type[PredictedModule] | None:
    """What a module turns into when it is split; None if it does not read its weights itself."""
    if isinstance(module, PredictedModule):
        return None
    fused = PredictedExperts if PredictedExperts.fits(module) else None
    return SPLIT.get(type(module), fused)


def split_module(module: nn.Module) -> PredictedModule | None:
    """The module with its weights as layers, all dense; None if it is none that can be split.

    It shares every parameter with the module, which is left as it is.
    """
    found = split_class(module)
    return None if found is None or split_refusal(module) else found(module)


def split_refusal(module: nn.Module) -> Refusal | None:
    """Why a module that reads its weights itself cannot be split; None if it can."""
    found = split_class(module)
    if found is None:
        return None
    if "forward" in vars(module):
        return Refusal(
            "has a forward of its own in place of its class's, which reads the weights of this "
            "very module",
            "delete that attribute first, or leave the module dense",
            predicate=True,
        )
    try:
        found.weights_of(module)
    except ValueError as error:
        return Refusal(str(error))
    return None


def split_modules(
    root: nn.Module, chosen: Callable[[str, PredictedModule], bool] = lambda *_: True
) -> list[tuple[nn.Module, nn.Module]]:
    """Split the modules below ``root``, in place.

    Args:
        root: holds the modules; is none itself.
        chosen: by a module's first name and its split form, which ones; all, if left out.

    Returns:
        What was replaced by what, to undo it.
    """
    replaced: list[tuple[nn.Module, nn.Module]] = []
    for name, module in list(root.named_modules()):
        split = split_module(module)
        if split is not None and chosen(name, split):
            replace_module(root, module, split)
            replaced.append((module, split))
    return replaced


@contextmanager
def splitting(model: nn.Module) -> Iterator[nn.Module]:
    """Within, all of a model's modules that read their weights themselves are split.

    Args:
        model: changed in place, and as it was afterwards.

    Yields:
        The model; another one only where it is itself such a module.
    """
    holder = nn.ModuleDict({"model": model})
    replaced = split_modules(holder)
    try:
        yield holder["model"]
    finally:
        for module, split in reversed(replaced):
            replace_module(holder, split, module)


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is a child below ``root``, so that shared layers stay shared."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
