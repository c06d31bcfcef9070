"""Adapters that a model holds, PEFT's: which layers they adapt, and which modules are their own.

An adapter stands in a layer's place and holds it as ``base_layer``, beside small matrices of its
own. The base is a layer of the model like any other; the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from weightcast.layers import Refusal

BASE = "base_layer"

OWN_PART = Refusal("belongs to an adapter", "it stays as it is, beside a predicted base", True)
"""Why what an adapter holds beside its base is not predicted."""


def is_adapter(module: nn.Module) -> bool:
    """Whether a module is one of PEFT's adapters, told by a class's name: PEFT is not imported."""
    return any(
        cls.__name__ == "BaseTunerLayer" and cls.__module__.split(".")[0] == "peft"
        for cls in type(module).__mro__
    )


def adapters(model: nn.Module) -> dict[str, nn.Module]:
    """The adapters of a model, by name."""
    return {name: module for name, module in model.named_modules() if is_adapter(module)}


def adapters_of(name: str, found: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The names of those :func:`adapters` in whose base a layer is, the inner first."""
    return tuple(above for above, part in _above(name, found) if part == BASE)


def is_own_part(name: str, found: Mapping[str, nn.Module]) -> bool:
    """Whether a module is inside an adapter, and not inside its base."""
    return any(part != BASE for _, part in _above(name, found))


def adapter_refusal(name: str, found: Mapping[str, nn.Module]) -> Refusal | None:
    """Why the base of an adapter cannot be predicted, if so."""
    for above in adapters_of(name, found):
        adapter: Any = found[above]
        if getattr(adapter, "merged_adapters", None):
            merged = ", ".join(map(repr, adapter.merged_adapters))
            return Refusal(
                f"holds the merged adapter {merged}, which PEFT could not take out of it again",
                "call unmerge_adapter() first, or merge_and_unload()",
                predicate=True,
            )
        if type(adapter).__name__ == "ParamWrapper":
            return Refusal(
                "has a parameter that its adapter (ParamWrapper) computes anew at each call",
                "call merge_and_unload() first, or leave it dense",
                predicate=True,
            )
    return None


def _above(name: str, found: Mapping[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """The adapters that hold a module, from the inside out, each with the part that it is in."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        if (above := ".".join(parts[:depth])) in found:
            yield above, parts[depth]
