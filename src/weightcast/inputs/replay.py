"""Replay: a model run again and again on the same batches, in which every module computes once.

What layers are given has to be asked after each change of the layers below. A run for that need not
begin at the beginning: a module in which nothing changes any more gives what it gave before, and
once the wanted layers were called nothing is left to see. So a block of a network runs as often as
it has layers to ask for, whatever the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from weightcast.inputs.batches import call
from weightcast.inputs.hooks import Take, observing
from weightcast.inputs.store import KEPT_BYTES, Store
from weightcast.layers import PredictedModule


class Replay:
    """Runs a model over batches, stops once the wanted layers were called, and keeps outputs.

    An output is kept of every module in which no layer is *open*: still to change, or still to be
    seen. The layers of ``names`` are open until :meth:`settle` closes them. A module that a model
    holds in two places, one that changes its input, and one whose output is more than tensors and
    numbers are run each time.

    Args:
        batches: the same ones in the same order each time they are read.
        names: layers that will be watched.
        calls: how often each is called on a batch, if on all batches alike; others end no run.
        frozen: nothing changes at all, so that layers count as settled once they are watched.
        whole: keep nothing and run to the end each time, for a model to which the above does harm.
        kept_bytes: of outputs in memory.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        names: Iterable[str],
        calls: Mapping[str, int],
        *,
        frozen: bool = False,
        whole: bool = False,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.batches, self.calls, self.frozen = batches, {} if whole else calls, frozen
        self.whole = whole
        self.open = dict.fromkeys(names)
        self._store = Store(kept_bytes)
        self._outputs: dict[nn.Module, dict[tuple[int, int], _Output]] = {}
        self._unkept: set[nn.Module] = set()

    def settle(self, *names: str) -> None:
        """Close layers: from now on they give what they gave."""
        for name in names:
            self.open.pop(name, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Forget all outputs; temporary files have no name and are gone with them."""
        self._outputs.clear()
        self._store.close()

    @contextmanager
    def watching(
        self, model: nn.Module, wanted: Collection[str], take: Take, alike: Collection[str] = ()
    ) -> Iterator[Callable[[int, Any], None]]:
        """Within, a function of a batch's number and the batch runs the model on it.

        ``take`` is called at every call of a wanted layer, as by :func:`observing`. Layers that are
        ``alike`` are given the same, and so need no watching of their own.
        """
        run = _Run({name: self.calls.get(name, 0) for name in wanted})

        def taken(name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
            take(name, layer, inputs)
            run.left[name] -= 1
            if run.seen and (not self.frozen or not later):
                raise _EnoughError

        def go(number: int, batch: Any) -> None:
            run.start(number)
            with suppress(_EnoughError):
                call(model, batch)

        owners = {name: _owner(model, name) for name in self.open}
        later = {o for name, o in owners.items() if name not in wanted and name not in alike}
        with observing(model, wanted, taken):
            if not self.whole:
                self._wrap(model, run, later if self.frozen else set(owners.values()))
            yield go
        if self.frozen:
            self.settle(*wanted, *alike)

    def _wrap(self, model: nn.Module, run: _Run, opened: set[nn.Module]) -> None:
        """Put a forward of ours before every module's; the end of ``observing`` removes it."""
        holders: dict[nn.Module, int] = {}
        is_open: dict[nn.Module, bool] = {}
        parts: set[nn.Module] = set()

        def visit(module: nn.Module) -> bool:
            holders[module] = holders.get(module, 0) + 1
            if module not in is_open:
                # A split module and the one that it lends its weights to are one.
                split = isinstance(module, PredictedModule)
                below = list(module.layers().values() if split else module.children())
                parts.update(below if split else ())
                is_open[module] = any([module in opened, *map(visit, below)])
            return is_open[module]

        visit(model)
        for module, count in holders.items():
            if module is model or isinstance(module, torch.jit.ScriptModule):
                continue
            kept = not is_open[module] and count == 1 and module not in parts | self._unkept
            if kept or module in opened:
                self._replace_forward(module, run, kept=kept)

    def _replace_forward(self, module: Any, run: _Run, *, kept: bool) -> None:
        original = module.forward

        @wraps(original)  # whose signature tells what a layer was called with
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not kept:
                if self.frozen and run.seen:
                    raise _EnoughError
                run.clean = run.clean and self.frozen
                return original(*args, **kwargs)
            place = run.next_call(module)
            found = self._outputs.get(module, {}).get(place)
            if found is not None:
                return found.give(args, kwargs)
            if run.inside or not run.clean:
                return original(*args, **kwargs)
            run.inside = True
            try:
                given = _versions((args, kwargs))
                output = original(*args, **kwargs)
            finally:
                run.inside = False
            self._keep(module, place, output, given)
            return output

        module.forward = forward

    def _keep(
        self, module: nn.Module, place: tuple[int, int], output: Any, given: dict[Tensor, int]
    ) -> None:
        """Keep the output of one call, in place of those of modules within."""
        leaves, spec = tree_flatten(output)
        arguments = list(given)
        owned = {x.untyped_storage().data_ptr() for x in arguments}
        kept: list[_Leaf] = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                kept.append(_Leaf(value=leaf))
            elif any(leaf is x for x in arguments):
                kept.append(_Leaf(argument=[leaf is x for x in arguments].index(True)))
            elif leaf.layout == torch.strided and leaf.untyped_storage().data_ptr() not in owned:
                kept.append(_Leaf(tensor=leaf))
            else:
                kept.append(_Leaf(value=self))  # a view of the input, which costs nothing anyway
        values = (leaf.value for leaf in kept)
        changed = any(x._version != version for x, version in given.items())
        if changed or not all(isinstance(v, _PLAIN) for v in values):
            self._unkept.add(module)
            return
        for leaf in kept:
            if leaf.tensor is not None:
                leaf.read = self._store.put(leaf.tensor.detach(), module)
                leaf.tensor = None
        self._outputs.setdefault(module, {})[place] = _Output(spec, kept)
        for inner in module.modules():
            if inner is not module and inner in self._outputs:
                for old in [key for key in self._outputs[inner] if key[0] == place[0]]:
                    del self._outputs[inner][old]
                if not self._outputs[inner]:
                    del self._outputs[inner]
                    self._store.drop(inner)


class _EnoughError(BaseException):
    """All wanted layers were called; no handler of a model's own catches it."""


_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


@dataclass
class _Run:
    """How far a run on one batch has come."""

    expected: Mapping[str, int]
    number: int = 0
    left: dict[str, int] = field(default_factory=dict)
    counts: dict[nn.Module, int] = field(default_factory=dict)
    inside: bool = False
    """Whether a module is running whose output will be kept."""
    clean: bool = True
    """Whether nothing that ran was open, so that what comes out will come out again."""

    def start(self, number: int) -> None:
        self.number, self.left, self.counts = number, dict(self.expected), {}
        self.inside, self.clean = False, True

    @property
    def seen(self) -> bool:
        """Whether every wanted layer was called as often as expected."""
        return all(self.expected.values()) and not any(self.left.values())

    def next_call(self, module: nn.Module) -> tuple[int, int]:
        """The batch and the number of this call in it."""
        self.counts[module] = self.counts.get(module, -1) + 1
        return self.number, self.counts[module]


@dataclass
class _Leaf:
    """A value of an output: a tensor that is kept, one of the arguments, or a plain value."""

    value: Any = None
    argument: int | None = None
    tensor: Tensor | None = None
    read: Callable[[], Tensor] | None = None


@dataclass
class _Output:
    """What a call of a module returned."""

    spec: Any
    leaves: list[_Leaf]

    def give(self, args: Any, kwargs: Any) -> Any:
        given = list(_versions((args, kwargs)))  # each once, as when the output was kept
        values = [
            leaf.read() if leaf.read else leaf.value if leaf.argument is None
            else given[leaf.argument]
            for leaf in self.leaves
        ]  # fmt: skip
        return tree_unflatten(values, self.spec)


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The module that is called where a layer is: its parent, of weights that modules read."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return model.get_submodule(name.rpartition(".")[0])


def _versions(arguments: Any) -> dict[Tensor, int]:
    """The tensors among a call's arguments, and how often each was changed in place."""
    return {
        x: 0 if x.is_inference() else x._version
        for x in tree_leaves(arguments)
        if isinstance(x, Tensor)
    }
