"""Constants: tensors that a module holds as it holds buffers, but that are not sent at every step.

``DistributedDataParallel`` sends every buffer of the wrapped network before each forward pass. A
dictionary U never changes, and is larger than all that is learned. Only the wrapped module could
name buffers to leave out, and that module is the user's. So U is kept where DDP does not look, in
the module's attributes, and all else is done as for buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from torch import Tensor, nn


class Constants(nn.Module):
    """A module whose fixed tensors move, cast, save, load and copy as buffers do.

    Their names in a state dict are those that buffers would have. The module's own
    ``named_buffers`` lists them, for ``fully_shard`` and ``torch.distributed.checkpoint``, which
    ask module by module, and so does ``_buffers`` for accelerate, which asks name by name;
    ``named_buffers`` of a module above, which is what DDP asks, does not.
    """

    _dynamo_marked_static = True
    """As ``torch._dynamo.mark_static`` sets it (an import of seconds): shapes are never symbols."""

    def __init__(self) -> None:
        super().__init__()
        self._constants: list[str] = []
        self.__dict__["_buffers"] = _ByName(self)

    def register_constant(
        self, name: str, tensor: Tensor | None, *, persistent: bool = True
    ) -> None:
        """Hold a tensor, or None for now, as this attribute; in the state dict if persistent."""
        assert not hasattr(self, name) and not isinstance(tensor, nn.Parameter)
        self._constants.append(name)
        if not persistent:
            self._non_persistent_buffers_set.add(name)
        self.__dict__[name] = tensor

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of the buffers and constants of this module, and of those below it."""
        yield from self._named_members(
            lambda module: (dict(module._buffers) | _own_constants(module)).items(),
            prefix=prefix,
            recurse=recurse,
            remove_duplicate=remove_duplicate,
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        with self._as_buffers():
            return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, constant in _own_constants(self, persistent=True).items():
            if constant is not None:
                destination[prefix + name] = constant if keep_vars else constant.detach()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._as_buffers():
            super()._load_from_state_dict(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Any:
        raise ValueError(
            "DataParallel copies parameters and buffers to every GPU, but not a dictionary's "
            "constants: use DistributedDataParallel, with one process per GPU"
        )

    @contextmanager
    def _as_buffers(self) -> Iterator[None]:
        """Within, the constants are buffers: torch's own code then treats them as such."""
        state, named = self.__dict__, self._buffers
        state["_buffers"] = dict(named) | {name: state.pop(name) for name in self._constants}
        try:
            yield
        finally:
            state["_buffers"], changed = named, state["_buffers"]
            named.update(changed)


class _ByName(dict[str, Any]):
    """A module's buffers, which it lists, and its constants, which are there by name alone."""

    def __init__(self, module: Constants) -> None:
        super().__init__()
        self._module = module

    def _is_constant(self, name: object) -> bool:
        # Neither the module nor its names need be there yet while a pickle is read.
        return name in vars(vars(self).get("_module", self)).get("_constants", ())

    def __contains__(self, name: object) -> bool:
        return self._is_constant(name) or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        return vars(self._module)[name] if self._is_constant(name) else super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if self._is_constant(name):
            vars(self._module)[name] = value
        else:
            super().__setitem__(name, value)

    def update(self, values: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set every value by its name."""
        for name, value in values.items():
            self[name] = value


def named_constants(model: nn.Module, *, persistent: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a model's constants, each once; ``persistent``: only a state dict's."""
    yield from model._named_members(lambda module: _own_constants(module, persistent).items())


def _own_constants(module: nn.Module, persistent: bool = False) -> dict[str, Tensor | None]:
    if not isinstance(module, Constants):
        return {}
    left_out = module._non_persistent_buffers_set if persistent else ()
    return {name: vars(module)[name] for name in module._constants if name not in left_out}
