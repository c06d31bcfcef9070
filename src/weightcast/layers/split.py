"""split: modules that read their weights themselves become modules whose weights are layers."""

from __future__ import annotations

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
"""The split class of torch's modules that read their weights themselves."""


def split_class(module: nn.Module) -> type[PredictedModule] | None:
    """The class that a module is split into; None if it does not read its weights itself."""
    if isinstance(module, PredictedModule):
        return None
    fused = PredictedExperts if PredictedExperts.fits(module) else None
    return SPLIT.get(type(module), fused)


def split_module(module: nn.Module) -> PredictedModule | None:
    """The module with its parameters in dense layers of their own; None if it cannot be split."""
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
