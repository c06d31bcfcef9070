"""Walk: what the layers of a model are given, layer by layer, while the layers below change.

Every layer is asked for in its turn. Layers that make the same rows of one input (queries, keys and
values, say) share a turn and their moments. See :mod:`weightcast.inputs.replay` for what a turn
runs: all in all each block runs a few times on each batch, however many there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from weightcast.inputs.gather import Given, naming_layer, rows_given
from weightcast.inputs.replay import Replay
from weightcast.inputs.store import KEPT_BYTES, Store
from weightcast.inputs.survey import Survey, sum_of_inputs, survey
from weightcast.layers.rule import layer_seed

Refresh = Literal["layer", "block", "never"]
"""How often inputs are seen anew: after every change of a layer, after every block, or never."""


class Walk:
    """Asks for what the layers of a model are given, in the order in which the model runs them.

    It runs the model once over all batches to know that order, and once over the first batch, to
    see whether replayed modules give every layer what it gets without. Memory: the moments of
    one turn (a block's, if ``refresh`` is not ``layer``), and outputs of modules, see
    :class:`Replay`.

    Args:
        model: as it is now; with ``paired`` it stays so, and gives the x~ of moments.
        names: layers that can be seen; those of them that the batches reach are in ``order``.
            A survey of them, if one was made before.
        batches: example inputs.
        needs: which statistics each layer needs, and whether moments.
        seed: of the draws of rows, where there are very many, and of samples.
        refresh: see :data:`Refresh`.
        remember: keep the moments of layers that are settled, to be asked for again.
        say: shows a line, where a whole pass over the model is needed.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str] | Survey,
        batches: Sequence[Any],
        needs: Mapping[str, Collection[str]],
        seed: int,
        *,
        refresh: Refresh = "layer",
        remember: bool = False,
        paired: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.batches, self.needs, self.seed = model, batches, needs, seed
        self.paired, self._remembered = paired, Store(KEPT_BYTES) if remember else None
        surveyed = isinstance(names, Survey)
        self._survey = names if surveyed else survey(model, names, batches)
        self.order = self._survey.order
        self._turns = _turns(model, self._survey, refresh)
        self._leader, calls = self._survey.same_rows, self._survey.calls
        self._found: dict[str, Given] = {}
        for name in [name for name in self.order if name not in calls]:
            say(f"{name} is not called equally often on all batches: whole passes for it")
        differs = _rehearse(model, self._turns, self._survey, batches[0])
        if differs is not None:
            say(f"{differs} is given other inputs where modules are replayed: whole passes for all")
        frozen = refresh == "never"
        how: dict[str, Any] = {} if differs is None else {"whole": True}
        self._own = Replay(batches, self.order, calls, frozen=frozen, **how)
        self._dense = Replay(batches, self.order, calls, frozen=True, **how)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.__exit__()
        self._dense.__exit__()
        if self._remembered is not None:
            self._remembered.close()

    def given(self, name: str, current: nn.Module) -> Given:
        """What a layer is given in the model as it is now, ``current``, or was (``never``)."""
        current = self.model if self._own.frozen else current
        if name not in self._leader:  # not reached by the batches: the error says so
            return self._see([name], {name: name}, current)[name]
        leader = self._leader[name]
        if leader not in self._found:
            turn = [other for other in self._turns[name] if other in self._own.open] or [name]
            # What a block below has shown, as keys of one encoder's output, is not seen here again.
            turn = [other for other in turn if self._leader.get(other) not in self._found]
            seen = self._see(turn, self._leader, current)
            if self._remembered is not None:
                for given in seen.values():
                    given.moments.keep_in(self._remembered)
            self._found |= seen
        return self._found[leader]

    def settle(self, name: str) -> None:
        """Say that a layer will not change any more."""
        _give_back()
        self._own.settle(name)
        self._dense.settle(name)
        if self._remembered is not None:
            return
        self._leader.pop(name, None)
        for unused in self._found.keys() - self._leader.values():
            del self._found[unused]

    def _see(
        self, turn: Sequence[str], leader_of: Mapping[str, str], current: nn.Module
    ) -> dict[str, Given]:
        """Run the model over all batches, side by side with the dense one if they are paired."""
        leaders = {leader_of[name]: layer_seed(self.seed, leader_of[name]) for name in turn}
        given = {
            leader: Given(
                {need for n in turn if leader_of[n] == leader for need in self.needs[n]},
                torch.Generator().manual_seed(seed),
                paired=self.paired,
            )
            for leader, seed in leaders.items()
        }
        with ExitStack() as stack:
            own = _Rows(stack, self._own, current, leaders, turn)
            dense = _Rows(stack, self._dense, self.model, leaders, turn) if self.paired else own
            for number, batch in enumerate(self.batches):
                found = own.of(number, batch)
                other = found if dense is own else dense.of(number, batch)
                for leader, rows in found.items():
                    # An expert of a mixture may be given another number of rows there.
                    alike = [x.shape for x in rows] == [x.shape for x in other[leader]]
                    pairs = zip(rows, other[leader] if alike else rows, strict=True)
                    with naming_layer(leader):
                        for x, dense_x in pairs:
                            given[leader].update(x, dense_x)
        return given


class _Rows:
    """The rows of some layers of one model, batch by batch."""

    def __init__(
        self,
        stack: ExitStack,
        replay: Replay,
        model: nn.Module,
        seeds: Mapping[str, int],
        turn: Sequence[str],
    ) -> None:
        self._seeds, self._found = seeds, dict[str, list[Tensor]]()
        self._draws = dict[str, torch.Generator]()
        self._run = stack.enter_context(replay.watching(model, seeds, self._take, turn))

    def of(self, number: int, batch: Any) -> dict[str, list[Tensor]]:
        """The layers' rows on one batch, at each call."""
        self._found = {name: [] for name in self._seeds}
        seeds = {name: layer_seed(seed, f"batch {number}") for name, seed in self._seeds.items()}
        self._draws = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self._run(number, batch)
        return self._found

    def _take(self, name: str, layer: nn.Module, inputs: list[Tensor]) -> None:
        with naming_layer(name):
            self._found[name].append(rows_given(layer, inputs, self._draws[name]))


def _give_back() -> None:
    """Have glibc return what was freed: in gaps between tensors that stay it keeps very much."""
    with suppress(AttributeError, OSError, TypeError):  # other systems' libraries
        ctypes.CDLL(None).malloc_trim(0)


def _turns(model: nn.Module, found: Survey, refresh: Refresh) -> dict[str, list[str]]:
    """Every layer, to the layers that are seen in the same run."""
    blocks: dict[str, list[str]] = {}
    for name in found.order:
        key = found.same_rows[name] if refresh == "layer" else block_of(model, name)
        blocks.setdefault(key, []).append(name)
    return {name: block for block in blocks.values() for name in block}


def block_of(model: nn.Module, name: str) -> str:
    """The entry of the outermost list or sequence of modules that a layer is in, or the layer."""
    parent, path = model, ""
    for part in name.split("."):
        path = f"{path}.{part}".lstrip(".")
        if isinstance(parent, (nn.ModuleList, nn.Sequential)):
            return path
        parent = parent._modules.get(part) or nn.Module()
    return name


def _rehearse(
    model: nn.Module, turns: Mapping[str, Sequence[str]], found: Survey, batch: Any
) -> str | None:
    """The last layer, if it is given other inputs where all modules below are replayed."""
    if not found.order:
        return None
    name = found.order[-1]
    leader, size = found.same_rows[name], 0.0

    def take(_: str, __: nn.Module, inputs: list[Tensor]) -> None:
        nonlocal size
        size += sum_of_inputs(inputs)

    # Its whole block is computed, so that what the blocks below give is seen to arrive.
    block = [n for n in found.order if block_of(model, n) == block_of(model, name)]
    with Replay([batch], block, found.calls) as replay:
        for _ in range(2):  # what the first run keeps is given to the second
            size = 0.0
            with replay.watching(model, [leader], take, turns[name]) as run:
                run(0, batch)
    expected = found.sizes.get(leader, 0.0)
    return leader if abs(size - expected) > 1e-4 * abs(expected) else None
